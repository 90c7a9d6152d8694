#include "kernels/cublaslt/gemm.h"

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <cublasLt.h>

#include <algorithm>

#include "core/error.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/fused.h"
#include "core/ops/matmul.h"
#include "core/ops/pointwise.h"
#include "kernels/cuda/codegen.h"
#include "kernels/cuda/own_kernel.h"
#include "kernels/shared_constants.h"

namespace torchweld::cublaslt {
namespace {

/// A batch of matrices in memory, [batch, rows, columns] with one of the last two strides 1.
struct Matrix {
  int64_t batch = 1;
  int64_t rows = 1;
  int64_t columns = 1;
  int64_t leading = 1;  ///< From row to row; from column to column when `transposed`.
  int64_t batch_stride = 0;
  bool transposed = false;  ///< Rows are neighbours, not columns.
};

/// d = activation(a b + bias + c); b is transposed weights for linear layers and 1x1 convolutions.
struct Gemm {
  Matrix a, b, c, d;
  c10::ScalarType dtype = c10::kFloat;
  size_t a_input = 0;
  size_t b_input = 0;
  std::optional<size_t> bias_input;
  std::optional<size_t> c_input;
  bool packs_weights = false;
  std::string activation;  ///< "", "relu" or "gelu_tanh".
  std::vector<size_t> packed;
};

/// Merges dimensions `first` to `last` - 1 of a tensor into one: size and stride.
std::pair<int64_t, int64_t> merge(const Dims& shape, const Dims& strides, size_t first, size_t last) {
  int64_t size = 1;
  int64_t stride = 0;
  for (size_t d = last; d-- > first;) {
    if (shape[d] == 1) continue;
    expect(size == 1 || strides[d] == stride * size, "rows do not lie at equal distances in memory");
    if (size == 1) stride = strides[d];
    size *= shape[d];
  }
  return {size, stride};
}

void expect_leading(const Matrix& m) {
  expect(m.leading >= (m.transposed ? m.rows : m.columns), "rows of a matrix overlap in memory");
}

/// A tensor as one matrix: all dimensions but the last are rows.
Matrix rows_of(const Dims& shape, const Dims& strides) {
  Matrix m;
  auto [rows, stride] = merge(shape, strides, 0, shape.size() - 1);
  m.rows = rows;
  m.columns = shape.back();
  expect(strides.back() == 1 || m.columns == 1, "the last dimension is not innermost");
  m.leading = rows == 1 ? std::max<int64_t>(m.columns, 1) : stride;
  expect_leading(m);
  return m;
}

/// [N,C,1s...] or [N,C,H,W] seen as [N,H,W,C].
Matrix pixels_of(const TensorType& type) {
  Dims shape = {type.shape[0]};
  Dims strides = {type.strides[0]};
  for (size_t d = 2; d < type.shape.size(); ++d) {
    shape.push_back(type.shape[d]);
    strides.push_back(type.strides[d]);
  }
  shape.push_back(type.shape[1]);
  strides.push_back(type.strides[1]);
  return rows_of(shape, strides);
}

/// The last two dimensions as a matrix, the others as the batch, broadcast to `batch_shape`.
Matrix batch_of(const TensorType& type, const Dims& batch_shape) {
  Matrix m;
  size_t rank = type.shape.size();
  m.rows = type.shape[rank - 2];
  m.columns = type.shape[rank - 1];
  int64_t row_stride = type.strides[rank - 2];
  int64_t column_stride = type.strides[rank - 1];
  if (column_stride == 1 || m.columns == 1) {
    m.leading = m.rows == 1 ? m.columns : row_stride;
  } else {
    expect(row_stride == 1 || m.rows == 1, "neither rows nor columns are neighbours in memory");
    m.transposed = true;
    m.leading = m.columns == 1 ? m.rows : column_stride;
  }
  expect_leading(m);
  Dims shape(type.shape.begin(), type.shape.end() - 2);
  Dims strides = broadcast_strides(shape, Dims(type.strides.begin(), type.strides.end() - 2), batch_shape);
  m.batch = 1;
  for (size_t d = batch_shape.size(); d-- > 0;) {
    if (batch_shape[d] == 1) continue;
    expect(m.batch == 1 || strides[d] == m.batch_stride * m.batch, "matrices of a batch do not lie at equal distances");
    if (m.batch == 1) m.batch_stride = strides[d];
    m.batch *= batch_shape[d];
  }
  return m;
}

void read_matmul(const Node& node, const cuda::Body& body, Gemm& gemm) {
  const TensorType& out = body.anchor->output()->type;
  Dims batch(out.shape.begin(), out.shape.end() - 2);
  gemm.a = batch_of(node.input(gemm.a_input)->type, batch);
  gemm.b = batch_of(node.input(gemm.b_input)->type, batch);
  gemm.d = batch_of(node.output()->type, batch);
  expect(!gemm.d.transposed, "the result is stored transposed");
}

/// Weights [N,K] (and 1s) as the right operand.
void read_weights(const Node& node, const cuda::Body& body, Gemm& gemm) {
  const TensorType& weight = node.input(gemm.b_input)->type;
  int64_t outputs = weight.shape[0];
  gemm.b = {.rows = weight.numel() / std::max<int64_t>(outputs, 1), .columns = outputs, .transposed = true};
  gemm.b.leading = gemm.b.rows;
  std::vector<size_t> eaten = {gemm.b_input};
  if (body.anchor->inputs().size() > 2) {
    gemm.bias_input = cuda::anchor_input(body, 2);
    eaten.push_back(*gemm.bias_input);
  }
  gemm.packed = cuda::packed_inputs_of(node, body, eaten);
  gemm.packs_weights = true;
}

void read_conv(const Node& node, const cuda::Body& body, Gemm& gemm) {
  const Conv& conv = *body.anchor->as<Conv>();
  const TensorType& weight = node.input(gemm.b_input)->type;
  auto all = [](const Dims& dims, int64_t number) {
    return std::all_of(dims.begin(), dims.end(), [number](int64_t d) { return d == number; });
  };
  expect(weight.numel() == weight.shape[0] * weight.shape[1], "a window larger than 1x1");
  expect(all(conv.stride, 1) && all(conv.padding, 0) && conv.groups == 1 && !conv.transposed,
         "a 1x1 convolution with stride, padding or groups");
  gemm.a = pixels_of(node.input(gemm.a_input)->type);
  gemm.d = pixels_of(node.output()->type);
  read_weights(node, body, gemm);
}

void read_linear(const Node& node, const cuda::Body& body, Gemm& gemm) {
  const TensorType& x = node.input(gemm.a_input)->type;
  const TensorType& out = node.output()->type;
  gemm.a = rows_of(x.shape, x.strides);
  gemm.d = rows_of(out.shape, out.strides);
  read_weights(node, body, gemm);
}

/// The addend of a fused node as a matrix like the result.
Matrix addend_of(const Node& node, const cuda::Body& body, const TensorType& type) {
  expect(type.shape == node.output()->type.shape && type.dtype == node.output()->type.dtype,
         "an addend of other sizes or dtype than the result");
  if (body.anchor->as<Conv>()) return pixels_of(type);
  if (body.anchor->as<Linear>()) return rows_of(type.shape, type.strides);
  Matrix m = batch_of(type, Dims(type.shape.begin(), type.shape.end() - 2));
  expect(!m.transposed, "an addend that is stored transposed");
  return m;
}

/// The pointwise nodes after the product: [add a tensor] [activation].
void read_epilogue(const Node& node, const cuda::Body& body, Gemm& gemm) {
  const Value* value = body.anchor->output();
  expect(body.graph->outputs().size() == 1, "more than one result");
  while (value != body.graph->outputs()[0]) {
    expect(body.graph->use_count(value) == 1, "a value between the product and the result is read twice");
    const Node* next = value->users().front();
    auto* pointwise = next->as<Pointwise>();
    expect(pointwise != nullptr && gemm.activation.empty(), "cuBLASLt: " + next->attrs.text() + " after the product");
    if (pointwise->fn == "add" && !gemm.c_input) {
      const Value* other = next->input(0) == value ? next->input(1) : next->input(0);
      expect(!other->producer(), "cuBLASLt: the addend is computed inside the body");
      gemm.c_input = static_cast<size_t>(other->index());
      gemm.c = addend_of(node, body, node.input(*gemm.c_input)->type);
    } else {
      expect(pointwise->fn == "relu" || pointwise->fn == "gelu_tanh", "cuBLASLt has no epilogue " + pointwise->fn);
      expect(pointwise->fn != "relu" || gemm.dtype != c10::kFloat, "cuBLASLt's relu turns NaN into 0 in f32");
      gemm.activation = pointwise->fn;
    }
    value = next->output();
  }
}

Gemm read(const Node& node) {
  cuda::Body body = cuda::body_of(node);
  const Node& anchor = *body.anchor;
  Gemm gemm;
  gemm.a_input = cuda::anchor_input(body, 0);
  gemm.b_input = cuda::anchor_input(body, 1);
  gemm.dtype = anchor.output()->type.dtype;
  bool known = gemm.dtype == c10::kFloat || gemm.dtype == c10::kDouble || gemm.dtype == c10::kHalf ||
               gemm.dtype == c10::kBFloat16;
  expect(known && node.output()->type.dtype == gemm.dtype && node.input(gemm.a_input)->type.dtype == gemm.dtype,
         "only products of f32, f64, f16 or bf16 into the same dtype");
  expect(node.output()->type.numel() > 0 && node.input(gemm.a_input)->type.numel() > 0, "an empty tensor");
  if (anchor.as<Conv>()) {
    read_conv(node, body, gemm);
  } else if (anchor.as<Linear>()) {
    read_linear(node, body, gemm);
  } else {
    read_matmul(node, body, gemm);
    gemm.packed = body.literals;
  }
  read_epilogue(node, body, gemm);
  return gemm;
}

void check_blas(cublasStatus_t status, const char* doing) {
  expect(status == CUBLAS_STATUS_SUCCESS,
         std::string("cuBLASLt failed to ") + doing + ": " + cublasLtGetStatusString(status));
}

cudaDataType_t data_type(c10::ScalarType dtype) {
  switch (dtype) {
    case c10::kDouble:
      return CUDA_R_64F;
    case c10::kHalf:
      return CUDA_R_16F;
    case c10::kBFloat16:
      return CUDA_R_16BF;
    default:
      return CUDA_R_32F;
  }
}

/// Owns a cuBLASLt descriptor.
template <class T, cublasStatus_t (*destroy)(T*)>
struct Destroy {
  void operator()(T* object) const { destroy(object); }
};
template <class T, cublasStatus_t (*destroy)(T*)>
using Owned = std::unique_ptr<T, Destroy<T, destroy>>;
using Operation = Owned<cublasLtMatmulDescOpaque_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayoutOpaque_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreferenceOpaque_t, cublasLtMatmulPreferenceDestroy>;

/// cuBLASLt counts columns first: a row-major matrix is its own transpose there.
Layout layout_of(const Matrix& m, c10::ScalarType dtype) {
  cublasLtMatrixLayout_t handle = nullptr;
  auto rows = static_cast<uint64_t>(m.transposed ? m.rows : m.columns);
  auto columns = static_cast<uint64_t>(m.transposed ? m.columns : m.rows);
  check_blas(cublasLtMatrixLayoutCreate(&handle, data_type(dtype), rows, columns, m.leading), "describe a matrix");
  Layout layout(handle);
  if (m.batch > 1) {
    auto count = static_cast<int32_t>(m.batch);
    check_blas(cublasLtMatrixLayoutSetAttribute(handle, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count),
               "describe a batch");
    check_blas(cublasLtMatrixLayoutSetAttribute(handle, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &m.batch_stride,
                                                sizeof m.batch_stride),
               "describe a batch");
  }
  return layout;
}

/// What all offers for one node share.
struct Prepared {
  Gemm gemm;
  Operation operation;
  Layout a, b, c, d;
  at::Tensor weight;
  at::Tensor bias;
};

template <class V>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const V& value) {
  check_blas(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), "describe a product");
}

void describe_operation(Prepared& prepared, const KernelContext& context) {
  const Gemm& gemm = prepared.gemm;
  bool f64 = gemm.dtype == c10::kDouble;
  cublasComputeType_t compute = f64                                               ? CUBLAS_COMPUTE_64F
                                : gemm.dtype == c10::kFloat && context.allow_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                                  : CUBLAS_COMPUTE_32F;
  cublasLtMatmulDesc_t handle = nullptr;
  check_blas(cublasLtMatmulDescCreate(&handle, compute, f64 ? CUDA_R_64F : CUDA_R_32F), "describe a product");
  prepared.operation.reset(handle);
  // d^T = b^T a^T: our right operand comes first.
  set(handle, CUBLASLT_MATMUL_DESC_TRANSA, gemm.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(handle, CUBLASLT_MATMUL_DESC_TRANSB, gemm.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  bool bias = gemm.bias_input.has_value();
  cublasLtEpilogue_t epilogue = bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (gemm.activation == "relu") epilogue = bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
  if (gemm.activation == "gelu_tanh") epilogue = bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
  set(handle, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
  if (bias) set(handle, CUBLASLT_MATMUL_DESC_BIAS_POINTER, prepared.bias.data_ptr());
}

std::shared_ptr<Prepared> prepare(const Node& node, Gemm gemm, const KernelContext& context) {
  auto prepared = std::make_shared<Prepared>();
  c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(cuda::device_of(node)));
  prepared->gemm = std::move(gemm);
  const Gemm& g = prepared->gemm;
  if (g.packs_weights) {
    at::Tensor weight = constant_of(node.input(g.b_input))->to(device, g.dtype).contiguous().clone();
    prepared->weight = shared_constant(weight);
  }
  if (g.bias_input) prepared->bias = constant_of(node.input(*g.bias_input))->to(device, g.dtype).contiguous().clone();
  describe_operation(*prepared, context);
  prepared->a = layout_of(g.a, g.dtype);
  prepared->b = layout_of(g.b, g.dtype);
  prepared->d = layout_of(g.d, g.dtype);
  prepared->c = layout_of(g.c_input ? g.c : g.d, g.dtype);
  return prepared;
}

class GemmKernel : public Kernel {
 public:
  GemmKernel(std::shared_ptr<const Prepared> prepared, const cublasLtMatmulHeuristicResult_t& choice)
      : prepared_(std::move(prepared)), choice_(choice) {}

  void run(const StepArgs& args) const override {
    const Gemm& g = prepared_->gemm;
    const void* a = cuda::aligned_data(*args.in[g.a_input]);
    const void* b = g.packs_weights ? prepared_->weight.data_ptr() : cuda::aligned_data(*args.in[g.b_input]);
    void* d = cuda::aligned_data(*args.out[0]);
    const void* c = g.c_input ? cuda::aligned_data(*args.in[*g.c_input]) : d;
    double one64 = 1;
    double beta64 = g.c_input ? 1 : 0;
    float one32 = 1;
    float beta32 = g.c_input ? 1 : 0;
    bool f64 = g.dtype == c10::kDouble;
    cublasStatus_t status =
        cublasLtMatmul(at::cuda::getCurrentCUDABlasLtHandle(), prepared_->operation.get(),
                       f64 ? static_cast<void*>(&one64) : &one32, b, prepared_->b.get(), a, prepared_->a.get(),
                       f64 ? static_cast<void*>(&beta64) : &beta32, c, prepared_->c.get(), d, prepared_->d.get(),
                       &choice_.algo, args.workspace, choice_.workspaceSize, static_cast<cudaStream_t>(args.stream));
    check(status == CUBLAS_STATUS_SUCCESS, std::string("cuBLASLt: ") + cublasLtGetStatusString(status));
  }
  int64_t workspace_bytes() const override { return static_cast<int64_t>(choice_.workspaceSize); }
  bool may_overlap() const override { return true; }
  std::vector<size_t> packed_inputs() const override { return prepared_->gemm.packed; }
  std::vector<at::Tensor> constants() const override { return {prepared_->weight, prepared_->bias}; }

 private:
  std::shared_ptr<const Prepared> prepared_;
  cublasLtMatmulHeuristicResult_t choice_;
};

std::vector<cublasLtMatmulHeuristicResult_t> choose(const Prepared& prepared, const KernelContext& context) {
  cublasLtMatmulPreference_t handle = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&handle), "take preferences");
  Preference preference(handle);
  // More has brought nothing on any GPU so far.
  constexpr int64_t kUsefulWorkspace = int64_t{32} << 20;
  auto workspace = static_cast<uint64_t>(std::min(context.workspace_limit, kUsefulWorkspace));
  check_blas(cublasLtMatmulPreferenceSetAttribute(handle, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                  sizeof workspace),
             "take preferences");
  constexpr uint32_t kAlignment = 16;
  for (auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                         CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(handle, attribute, &kAlignment, sizeof kAlignment),
               "take preferences");
  }
  constexpr int kMostOffers = 6;
  int wanted = context.tune ? kMostOffers : 1;
  std::vector<cublasLtMatmulHeuristicResult_t> results(wanted);
  int found = 0;
  check_blas(cublasLtMatmulAlgoGetHeuristic(at::cuda::getCurrentCUDABlasLtHandle(), prepared.operation.get(),
                                            prepared.b.get(), prepared.a.get(), prepared.c.get(), prepared.d.get(),
                                            handle, wanted, results.data(), &found),
             "find an algorithm");
  results.resize(found);
  std::erase_if(results, [](const auto& result) { return result.state != CUBLAS_STATUS_SUCCESS; });
  expect(!results.empty(), "cuBLASLt has no algorithm for it");
  return results;
}

/// A name that stays the same while the algorithm does.
std::string name_of(const cublasLtMatmulHeuristicResult_t& choice) {
  auto get = [&](cublasLtMatmulAlgoConfigAttributes_t attribute) {
    int32_t value = 0;
    size_t written = 0;
    cublasLtMatmulAlgoConfigGetAttribute(&choice.algo, attribute, &value, sizeof value, &written);
    return std::to_string(value);
  };
  return "algo" + get(CUBLASLT_ALGO_CONFIG_ID) + "_tile" + get(CUBLASLT_ALGO_CONFIG_TILE_ID) + "_stages" +
         get(CUBLASLT_ALGO_CONFIG_STAGES_ID) + "_split" + get(CUBLASLT_ALGO_CONFIG_SPLITK_NUM) + "_swizzle" +
         get(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING) + "_option" + get(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION);
}

}  // namespace

void propose_gemm(const Node& node, const KernelContext& context, Offers& offers) {
  auto* fused = node.as<Fused>();
  const Node* anchor = fused ? anchor_of(*fused) : &node;
  if (!anchor || !(anchor->as<Linear>() || anchor->as<Matmul>() || anchor->as<Conv>())) return;
  Gemm gemm = read(node);
  expect(at::cuda::is_available(), "no CUDA device");
  c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(cuda::device_of(node)));
  std::shared_ptr<Prepared> prepared = prepare(node, std::move(gemm), context);
  for (const cublasLtMatmulHeuristicResult_t& choice : choose(*prepared, context)) {
    offers.add(name_of(choice), [prepared, choice] { return std::make_unique<GemmKernel>(prepared, choice); });
  }
}

}  // namespace torchweld::cublaslt
