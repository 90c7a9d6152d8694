#include "runtime/call_signature.h"

#include <algorithm>

#include "core/plain_value.h"

namespace torchweld {

void print_field(std::string& out, const Range& range) { out += print_fields(range); }
void parse_field(TextReader& in, Range& range) { range = parse_fields<Range>(in); }
void print_field(std::string& out, const CallSignature& signature) { out += print_fields(signature); }
void parse_field(TextReader& in, CallSignature& signature) { signature = parse_fields<CallSignature>(in); }

CallSignature CallSignature::of(c10::ArrayRef<c10::IValue> arguments) {
  CallSignature signature;
  for (const c10::IValue& argument : arguments) {
    if (argument.isTensor()) {
      signature.add(type_of(argument.toTensor()));
    } else {
      signature.add(argument);
    }
  }
  return signature;
}

void CallSignature::add(const TensorType& tensor) {
  if (!scalars.empty()) kinds += 't';
  tensors.push_back(tensor);
}

void CallSignature::add(const c10::IValue& scalar) {
  if (scalars.empty()) kinds.assign(tensors.size(), 't');
  kinds += 's';
  scalars.push_back(scalar.deepcopy());  // a list goes on changing at the caller's
}

bool CallSignature::has_scalars_of(const CallSignature& other) const {
  return kinds == other.kinds &&
         std::equal(scalars.begin(), scalars.end(), other.scalars.begin(), other.scalars.end(), is_same);
}

bool CallSignature::operator==(const CallSignature& other) const {
  return tensors == other.tensors && has_scalars_of(other);
}

bool CallSignature::matches(c10::ArrayRef<c10::IValue> arguments) const {
  size_t tensor = 0;
  size_t scalar = 0;
  for (const c10::IValue& argument : arguments) {
    if (!kinds.empty() && (tensor + scalar >= kinds.size() || argument.isTensor() != (kinds[tensor + scalar] == 't'))) {
      return false;
    }
    if (argument.isTensor()) {
      if (tensor == tensors.size()) return false;
      const TensorType& type = tensors[tensor++];
      const at::Tensor& t = argument.toTensor();
      if (t.scalar_type() != type.dtype || t.device() != type.device || t.sizes() != type.shape ||
          t.strides() != type.strides) {
        return false;
      }
    } else {
      if (scalar == scalars.size() || !is_same(scalars[scalar++], argument)) return false;
    }
  }
  return tensor == tensors.size() && scalar == scalars.size();
}

}  // namespace torchweld
