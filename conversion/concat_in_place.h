// Concatenations whose inputs are computed where the result lies.
#pragma once

#include <functional>
#include <optional>

#include "conversion/select.h"

namespace torchweld {

/// The choice for a node again, with the same tactic and configuration, after types of its inputs or outputs have got
/// other strides; nothing when these do not take them.
using ChooseAgain = std::function<std::optional<Choice>(const Node& node)>;

/// A concatenation needs no launch when its inputs can be written into their places in its result: each has one such
/// place, is no output of the graph, and all that computes or reads it are single launches of our own device code,
/// which goes by the strides of its operands, or such concatenations themselves. The inputs get the result's strides,
/// their kernels are chosen again, and the concatenation's choice gets no kernel: `place` lays its inputs out in its
/// memory. Where a kernel cannot be chosen again, everything stays as it was.
void write_concats_in_place(Graph& graph, Selection& selection, const ChooseAgain& choose_again);

}  // namespace torchweld
