# Locates LibTorch without its own CMake package, whose CUDA part wants nvcc and a CUDA Toolkit.
#
# LibTorch is, in this order: TORCHWELD_TORCH_DIR, a LibTorch folder or its share/cmake in CMAKE_PREFIX_PATH, the torch
# of Python_EXECUTABLE.
# Sets TORCH_ROOT, TORCH_VERSION (2.11.0), TORCH_CXX11_ABI (0 or 1), TORCH_WITH_CUDA, TORCH_FROM_PYTHON, SITE_PACKAGES (a
# list, for headers in pip packages) and the imported target torch_files.

set(TORCH_ROOT "")
set(TORCH_FROM_PYTHON OFF)
set(SITE_PACKAGES "")

if(Python_EXECUTABLE)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c
      "import importlib.util, os, sysconfig
spec = importlib.util.find_spec('torch')
print(list(spec.submodule_search_locations)[0] if spec else '')
folders = [os.path.dirname(list(spec.submodule_search_locations)[0])] if spec else []
folders += [sysconfig.get_path('purelib'), sysconfig.get_path('platlib')]
print(';'.join(dict.fromkeys(folders)))"
    OUTPUT_VARIABLE python_answer OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "^[^\n]*" python_torch "${python_answer}")
  string(REGEX REPLACE "^[^\n]*\n" "" SITE_PACKAGES "${python_answer}")
endif()

if(TORCHWELD_TORCH_DIR)
  set(TORCH_ROOT "${TORCHWELD_TORCH_DIR}")
else()
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
    foreach(folder "${prefix}" "${prefix}/../..")  # torch.utils.cmake_prefix_path is torch/share/cmake
      if(NOT TORCH_ROOT AND EXISTS "${folder}/include/torch/csrc/jit/api/module.h")
        set(TORCH_ROOT "${folder}")
      endif()
    endforeach()
  endforeach()
endif()
if(NOT TORCH_ROOT AND python_torch)
  set(TORCH_ROOT "${python_torch}")
endif()
if(TORCH_ROOT)
  get_filename_component(TORCH_ROOT "${TORCH_ROOT}" REALPATH)
endif()
if(python_torch)
  get_filename_component(python_torch "${python_torch}" REALPATH)
  if(TORCH_ROOT STREQUAL python_torch)
    set(TORCH_FROM_PYTHON ON)
  endif()
endif()
if(NOT EXISTS "${TORCH_ROOT}/include/torch/csrc/jit/api/module.h")
  message(FATAL_ERROR "LibTorch not found. Pass -DPython_EXECUTABLE=<a python that has torch>, or "
                      "-DTORCHWELD_TORCH_DIR=<unpacked LibTorch zip>.")
endif()

set(version_header "${TORCH_ROOT}/include/torch/headeronly/version.h")
set(TORCH_VERSION "")
foreach(part MAJOR MINOR PATCH)
  file(STRINGS "${version_header}" line REGEX "define TORCH_VERSION_${part} ")
  string(REGEX MATCH "[0-9]+$" number "${line}")
  list(APPEND TORCH_VERSION ${number})
endforeach()
list(JOIN TORCH_VERSION "." TORCH_VERSION)

set(TORCH_CXX11_ABI 1)
set(torch_config "${TORCH_ROOT}/share/cmake/Torch/TorchConfig.cmake")
if(EXISTS "${torch_config}")
  file(STRINGS "${torch_config}" abi_line REGEX "D_GLIBCXX_USE_CXX11_ABI=0")
  if(abi_line)
    set(TORCH_CXX11_ABI 0)
  endif()
endif()

set(TORCH_WITH_CUDA OFF)
if(EXISTS "${TORCH_ROOT}/lib/libtorch_cuda.so")
  set(TORCH_WITH_CUDA ON)
endif()

add_library(torch_files INTERFACE)
target_include_directories(torch_files SYSTEM INTERFACE
  "${TORCH_ROOT}/include" "${TORCH_ROOT}/include/torch/csrc/api/include")
target_compile_definitions(torch_files INTERFACE _GLIBCXX_USE_CXX11_ABI=${TORCH_CXX11_ABI})
target_link_libraries(torch_files INTERFACE
  "${TORCH_ROOT}/lib/libtorch.so" "${TORCH_ROOT}/lib/libtorch_cpu.so" "${TORCH_ROOT}/lib/libc10.so")
# Libraries that LibTorch itself needs are found at run time, through its own RPATH.
target_link_options(torch_files INTERFACE "LINKER:--no-as-needed" "LINKER:--allow-shlib-undefined")
