// Device code for pointwise work: fused bodies as text, and the loops in which own kernels run them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/graph.h"
#include "kernels/cuda/launch.h"

namespace torchweld::cuda {

/// What a node computes, as a graph: the body of a fused node, or a graph of the one node.
struct Body {
  std::shared_ptr<const Graph> graph;  ///< Inputs are those of the node, in order.
  const Node* anchor = nullptr;        ///< Null when all is pointwise.
  /// Inputs of the node that stand in the code as numbers (0-d constants in host memory), ascending.
  std::vector<size_t> literals;
  bool is_literal(size_t input) const;
};

/// Takes `node` apart. Throws Unsupported when a body holds what device code cannot express: complex or 8-bit floats,
/// constants that are not single numbers, tensors in host memory.
Body body_of(const Node& node);

/// Type names in device code: as elements lie in memory ("tw::f16"), and as they are computed ("float").
std::string storage_type(c10::ScalarType dtype);
std::string compute_type(c10::ScalarType dtype);
/// True for the dtypes that device code handles: f32 f64 f16 bf16 i64 i32 i16 i8 u8 b8.
bool has_device_type(c10::ScalarType dtype);

/// Statements, one a line, that compute `wanted` from the variables that `names` gives for known values; they add the
/// variables they declare to `names`.
std::string emit_statements(const Graph& body, std::map<const Value*, std::string>& names,
                            const std::vector<const Value*>& wanted);

/// How a take picks rows of its table.
struct PickedRows {
  std::string numbers;  ///< Name of the operand that holds the rows' numbers.
  int64_t count = 0;    ///< Rows of the table.
  int64_t stride = 0;   ///< From one row to the next.
  bool wraps = false;   ///< Number -1 is the last row.
};

/// A tensor that is read or written once at every position of some loops.
struct Operand {
  std::string name;          ///< x0, x1 ... for inputs of the node, y0, y1 ... for outputs, t0 and n0 ... for takes.
  std::string pointer = {};  ///< What the kernel calls its data, where that is not `name`.
  const Value* value = nullptr;  ///< Of the body; null for an operand that only needs offsets, like an anchor's input.
  c10::ScalarType dtype = c10::kFloat;
  Dims strides;  ///< One per loop, outermost first; 0 where the operand is repeated.
  bool output = false;
  /// Of the last loop's positions, those that an output of several side by side has; all when `end` is 0.
  int64_t begin = 0, end = 0;
  /// For the table of a take, which is read at the row that another operand says, and the strides beside it.
  std::optional<PickedRows> rows = {};
};

/// Nested loops over some positions, the innermost in steps of `width` neighbouring positions that one thread takes.
struct Loops {
  Dims sizes;
  std::vector<Operand> operands;
  int width = 1;
  size_t fixed_loops = 0;  ///< How many of the last `fixed` loops are left after collapse(fixed).

  int64_t other_extent = 0;  ///< Largest offset that the kernel uses outside the operands, for index_type().

  /// Adds an input (output) of the node as it is seen from a domain of sizes `shape`, whose dimension order[i] is loop
  /// i.
  void add_operand(const Body& body, const TensorType& type, size_t index, bool output, const Dims& shape,
                   const Dims& order);
  /// Adds two operands for every take of the body: its table, whose value is the take's result, and its index.
  void add_takes(const Node& node, const Body& body, const Dims& shape, const Dims& order);
  /// Orders loops by the strides of the first output, drops those of size 1 except the first one (the batch, whose size
  /// should not show in the code) and merges neighbours that all operands allow to merge. The last `fixed` loops keep
  /// their place and merge only with one another. Throws Unsupported when a take's rows would differ along the last
  /// loop.
  void collapse(size_t fixed = 0);
  /// Sets `width` to the largest of 8, 4, 2, 1 by which sizes and strides allow moving 16 bytes at once. `most` bounds
  /// it. `partial_end`: the innermost size need not be a multiple.
  void choose_width(int most, bool partial_end);
  int64_t positions() const;
  const Operand& named(const std::string& name) const;
  /// The same loops with only those operands that the values `wanted` are computed from, where `given` are known, and
  /// the outputs among `wanted`.
  Loops only_for(const std::vector<const Value*>& wanted, const std::vector<const Value*>& given) const;
  /// "int" where all offsets are below 2^30, else "long long".
  std::string index_type() const;

  /// Members of a parameter struct that hold the operands' strides, and their values in the same order.
  std::string parameter_members() const;
  void add_arguments(Arguments& arguments) const;
};

/// `struct Elements`: pointers to the operands of `loops`, and `run<V>(acc, i0, i1, ...)`, which computes and writes
/// the outputs at V positions from there on. `acc` holds the values of `given`, usually the anchor's result; it is
/// absent when `given` is null. `source`: a further value that is known, passed after `acc`. The parameter struct must
/// be called Params and the index type I.
std::string emit_elements(const Body& body, const Loops& loops, const Value* given, const Value* source = nullptr);
/// `struct Source`: what comes ahead of an anchor along a row, the last loop. After `start()`, `fetch(early, j)` reads
/// the operands of V neighbours from the row's element j on into an `Early<V>`, and `run(x, early)` computes `wanted`
/// from them. Parameters and index type as above; needs staged.cuh.
std::string emit_source(const Body& body, const Loops& loops, const Value* wanted);
/// `const tw::f16* x0, tw::f16* y0, ` : data pointers of the kernel, for `node`'s inputs but `packed`, and its outputs.
std::string emit_pointers(const Node& node, const std::vector<size_t>& packed);
/// `const Elements elements{...};` in a kernel of these parameters; and `const Source source{...};` where the indexes
/// of all loops but the last are known.
std::string emit_elements_object(const Loops& loops);
std::string emit_source_object(const Loops& loops);
/// The first lines of every program.
std::string emit_head(const Loops& loops, const std::vector<std::string>& headers);

/// `I i1; tw::divide(rest, p.size[1], rest, i1); ... I i0 = rest;`: splits the index `rest` of a position into loops.
std::string emit_split(size_t rank);
/// `i0, i1, i2`
std::string index_list(size_t rank);

/// True for an input of a body that nothing but takes reads: it is no operand by itself.
bool is_only_taken(const Value* input);
/// Adds a number so that device code can divide by it: tw::Divider or, for "long long", the number.
void add_size(Arguments& arguments, int64_t size, const std::string& index_type);
/// The number of the node's input that the anchor reads as its input `i`. Throws Unsupported when the body computes it.
size_t anchor_input(const Body& body, size_t i);
/// Adds to `loops` what a kernel needs beside the anchor: inputs that pointwise nodes read, takes, and the outputs, as
/// seen from the anchor's result with dimension order[i] as loop i.
void add_finish_operands(const Node& node, const Body& body, const Dims& order, Loops& loops);
/// Inputs whose pointers the kernel does not take: numbers, and the constants among `eaten` (inputs of the anchor that
/// the kernel packs for itself). Throws Unsupported when one of `eaten` is no constant or is read elsewhere too.
std::vector<size_t> packed_inputs_of(const Node& node, const Body& body, const std::vector<size_t>& eaten);

/// Adds a number of the index type.
void add_index(Arguments& arguments, int64_t number, const std::string& index_type);

}  // namespace torchweld::cuda
