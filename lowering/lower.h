// TorchScript -> simpler TorchScript of the same meaning. Small by design: what an engine gains by rewriting is done on
// its own graph.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <set>

namespace torchweld {

/// Attributes that some method of the module or of its submodules writes: (type, attribute).
using WrittenAttributes = std::set<std::pair<const c10::ClassType*, std::string>>;
WrittenAttributes written_attributes(const torch::jit::Module& module);
/// Those that a block writes: objects which are no part of the module are made and written in inlined graphs too.
void add_written_attributes(const torch::jit::Block* block, WrittenAttributes& written);

/// A copy of the method's graph with all calls inlined, attributes that are numbers, strings, None, or lists
/// and dicts of these (and that nothing writes) as constants, what follows from that computed and dead branches gone,
/// and in-place operators made functional where nothing can tell the difference. Weights stay attributes.
std::shared_ptr<torch::jit::Graph> lower(const torch::jit::Module& module, const std::string& method,
                                         const WrittenAttributes& written);

}  // namespace torchweld
