// What operators do with the memory of their arguments, where their schemas do not say it.
#pragma once

#include <ATen/core/function_schema.h>

namespace torchweld {

/// True for an operator, made of others, that may give its argument itself or a view of it without its schema saying
/// so.
bool may_return_argument(const c10::FunctionSchema& schema);

/// True for an operator of which sizes and strides do not decide whether its results are views of its first argument;
/// reshape, for one, copies where it must. type_as gives the argument itself when the dtypes are the same.
bool surely_gives_views(const c10::FunctionSchema& schema);

/// True for an operator that gives a view of its first argument, or the argument itself, wherever sizes, strides and
/// dtypes allow it, and else a copy.
bool gives_views_where_it_can(const c10::FunctionSchema& schema);

/// True for an operator that writes other sizes into its argument, not only elements.
bool changes_shape(const c10::FunctionSchema& schema);

}  // namespace torchweld
