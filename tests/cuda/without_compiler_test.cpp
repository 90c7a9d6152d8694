// Machine code that is asked for while no compiler may be waited for. Runs without a GPU.
#include "kernels/without_compiler.h"

#include <ATen/cuda/CUDAContext.h>
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

TEST(WithoutCompiler, LoadedCodeKeepsItsKey) {
  if (!at::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  cuda::Program program = new_program("loaded");
  cuda::Program other = program;
  other.coarse = true;
  const std::string key = cuda::key_of(program, 0);
  EXPECT_FALSE(cuda::is_loaded(program, 0));
  cuda::Function function = cuda::load(program, 0);
  EXPECT_TRUE(cuda::is_loaded(program, 0));
  EXPECT_FALSE(cuda::is_loaded(other, 0));
  EXPECT_EQ(function.cubin, key);
  EXPECT_EQ(cuda::key_of(program, 0), key);
  EXPECT_NE(cuda::key_of(other, 0), key);
  WithoutCompiler now;
  cuda::Function again = cuda::load(program, 0, 64 << 10);
  EXPECT_EQ(again.handle, function.handle);
  EXPECT_EQ(again.cubin, key);
  EXPECT_THROW(cuda::load(other, 0), Unsupported);
}

}  // namespace
}  // namespace torchweld::cuda_tests
