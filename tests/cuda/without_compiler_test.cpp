// Machine code that is asked for while no compiler may be waited for. Runs without a GPU.
#include "kernels/without_compiler.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "core/error.h"
#include "kernels/cuda/jit.h"

namespace torchweld::cuda_tests {
namespace {

constexpr const char* kArch = "sm_80";

/// A program that no process before this one has left on disk.
cuda::Program new_program(const std::string& what) {
  return {"without_compiler", "// " + what + " of process " + std::to_string(getpid()) + "\n" +
                                  "extern \"C\" __global__ void kernel(float* x) { *x = 1; }"};
}

TEST(WithoutCompiler, TakesOnlyWhatHasBeenCompiled) {
  cuda::Program program = new_program("first");
  {
    WithoutCompiler now;
    EXPECT_THROW(cuda::compile(program, kArch), Unsupported);
  }
  std::string key = cuda::compile(program, kArch);
  WithoutCompiler now;
  EXPECT_EQ(cuda::compile(program, kArch), key);
  EXPECT_THROW(cuda::compile(program, "sm_90a"), Unsupported);
}

TEST(WithoutCompiler, IsForOneThreadAndMayBeNested) {
  EXPECT_FALSE(WithoutCompiler::is_alive());
  WithoutCompiler now;
  {
    WithoutCompiler again;
    EXPECT_TRUE(WithoutCompiler::is_alive());
  }
  EXPECT_TRUE(WithoutCompiler::is_alive());
  bool elsewhere = true;
  std::thread([&] { elsewhere = WithoutCompiler::is_alive(); }).join();
  EXPECT_FALSE(elsewhere);
}

}  // namespace
}  // namespace torchweld::cuda_tests
