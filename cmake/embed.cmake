# cmake -DOUTPUT=x.cpp -DFOLDER=kernels/cuda/device -P embed.cmake
# Writes a C++ file that defines torchweld::cuda::embedded_headers(): name and text of every .cuh file of the folder.
# Texts are split into raw string literals of less than 16 KB, the length that every compiler takes.

file(GLOB files "${FOLDER}/*.cuh" "${FOLDER}/*.h")
list(SORT files)
set(code "// Written by cmake/embed.cmake.\n#include \"kernels/cuda/embedded.h\"\n\nnamespace torchweld::cuda {\n\n")
set(rows "")
set(number 0)
foreach(file IN LISTS files)
  get_filename_component(name "${file}" NAME)
  file(READ "${file}" text)
  string(APPEND code "static const char kText${number}[] =\n")
  string(LENGTH "${text}" length)
  set(position 0)
  while(position LESS length)
    string(SUBSTRING "${text}" ${position} 12000 piece)
    string(APPEND code "    R\"__cuh__(${piece})__cuh__\"\n")
    math(EXPR position "${position} + 12000")
  endwhile()
  string(APPEND code "    \"\";\n\n")
  string(APPEND rows "      {\"${name}\", kText${number}},\n")
  math(EXPR number "${number} + 1")
endforeach()
string(APPEND code
  "const std::vector<EmbeddedHeader>& embedded_headers() {\n"
  "  static const std::vector<EmbeddedHeader> headers = {\n${rows}  };\n  return headers;\n}\n\n"
  "}  // namespace torchweld::cuda\n")
file(WRITE "${OUTPUT}.new" "${code}")
file(COPY_FILE "${OUTPUT}.new" "${OUTPUT}" ONLY_IF_DIFFERENT)
file(REMOVE "${OUTPUT}.new")
file(TOUCH_NOCREATE "${OUTPUT}")
