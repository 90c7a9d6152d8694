#include "kernels/without_compiler.h"

namespace torchweld {
namespace {

thread_local bool compiler_is_off = false;

}  // namespace

WithoutCompiler::WithoutCompiler() : before_(compiler_is_off) { compiler_is_off = true; }
WithoutCompiler::~WithoutCompiler() { compiler_is_off = before_; }
bool WithoutCompiler::is_alive() { return compiler_is_off; }

}  // namespace torchweld
