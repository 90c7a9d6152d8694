// Makes the engine class and the operator that runs it known to LibTorch when the library is loaded. This is the one
// place with static initialisers: LibTorch's registries work by them.
#include <torch/custom_class.h>
#include <torch/library.h>

#include "core/error.h"
#include "runtime/engine.h"

namespace torchweld {
namespace {

/// torchweld::run(Any segment, Any inputs) -> Tensor[]; `inputs` is a tuple.
std::vector<at::Tensor> run(const c10::IValue& segment, const c10::IValue& inputs) {
  c10::intrusive_ptr<Engine> engine = engine_of(segment);
  if (!inputs.isTuple()) throw Error(kWrongArguments);
  return engine->run(segment, inputs.toTupleRef().elements().asArrayRef());
}

}  // namespace

TORCH_LIBRARY(torchweld, library) {
  library.class_<Engine>("Engine").def_pickle([](const c10::intrusive_ptr<Engine>& engine) { return engine->save(); },
                                              [](Engine::Saved saved) { return Engine::load(std::move(saved)); });
  library.def("run(Any segment, Any inputs) -> Tensor[]", &run);
}

}  // namespace torchweld
