// Values of a program that are no tensors and hold none: what plans are made for, beside the types of tensors.
#pragma once

#include <ATen/core/ivalue.h>

namespace torchweld {

/// Numbers, strings, devices, None, and lists and tuples of these.
bool is_plain(const c10::Type& type);
bool is_plain(const c10::IValue& value);

/// Whether two plain values are the same to any program: 0 and -0 are not, NaN and NaN are.
bool is_same(const c10::IValue& a, const c10::IValue& b);

}  // namespace torchweld
