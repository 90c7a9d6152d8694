#include "kernels/cuda/warpgroup_multiply.h"

#include "core/error.h"

namespace torchweld::cuda {

std::string emit_warpgroup_multiply(const std::string& name, c10::ScalarType dtype, int64_t columns,
                                    WarpgroupRows rows) {
  const bool tf32 = dtype == c10::kFloat;
  const bool in_registers = rows == WarpgroupRows::kRegisters;
  check(!(tf32 && in_registers), "rows in registers are f16 or bf16");
  std::string registers, operands;
  int64_t count = columns / 2;
  for (int64_t i = 0; i < count; ++i) {
    registers += (i ? ", %" : "%") + std::to_string(i);
    operands +=
        (i ? ", " : "") + std::string("\"+f\"(d[") + std::to_string(i / 4) + "][" + std::to_string(i % 4) + "])";
  }
  auto operand = [&](int64_t i) { return "%" + std::to_string(count + i); };
  std::string type = tf32 ? "tf32" : dtype == c10::kHalf ? "f16" : "bf16";
  std::string left = operand(0);
  std::string right = operand(1);
  std::string values = "\"l\"(a), \"l\"(b)";
  std::string last = tf32 ? "" : ", 0, 0";  // Neither is transposed.
  if (in_registers) {
    left = "{" + operand(0) + ", " + operand(1) + ", " + operand(2) + ", " + operand(3) + "}";
    right = operand(4);
    values = "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b)";
    last = ", 1";  // The columns are.
  }
  std::string sums = "(float (&d)[" + std::to_string(columns / 8) + "][4]";
  std::string parameters = in_registers ? ", const unsigned (&a)[4], unsigned long long b) {"
                                        : ", unsigned long long a, unsigned long long b) {";
  const std::string function = "  __device__ __forceinline__ static void ";
  return "struct " + name + " {\n#ifdef __CUDA_ARCH_FEAT_SM90_ALL\n" + function +
         "begin() { asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\"); }\n" + function +
         "close() { asm volatile(\"wgmma.commit_group.sync.aligned;\" ::: \"memory\"); }\n" + function + "run" + sums +
         parameters + "\n    asm volatile(\"wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) +
         (tf32 ? "k8" : "k16") + ".f32." + type + "." + type + " {" + registers + "}, " + left + ", " + right +
         ", 1, 1, 1" + last + ";\"\n        : " + operands + " : " + values + ");\n  }\n" + function + "finish" + sums +
         ") {\n    asm volatile(\"wgmma.wait_group.sync.aligned 0;\"\n        : " + operands +
         " :: \"memory\");\n  }\n" + function +
         "wait_for_earlier() { asm volatile(\"wgmma.wait_group.sync.aligned 1;\" ::: \"memory\"); }\n#else\n" +
         function + "begin() { __trap(); }\n" + function + "close() {}\n" + function + "run" + sums + parameters +
         "}\n" + function + "finish" + sums + ") {}\n" + function + "wait_for_earlier() {}\n#endif\n};\n";
}

}  // namespace torchweld::cuda
