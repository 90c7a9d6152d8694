#include "core/ops/all.h"

#include "core/ops/aten.h"
#include "core/ops/attention.h"
#include "core/ops/constant.h"
#include "core/ops/conv.h"
#include "core/ops/creation.h"
#include "core/ops/fused.h"
#include "core/ops/index.h"
#include "core/ops/matmul.h"
#include "core/ops/norm.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/recurrent.h"
#include "core/ops/reduce.h"
#include "core/ops/resize.h"
#include "core/ops/shape.h"
#include "core/ops/softmax.h"

namespace torchweld {

void define_all_ops(OpSet& ops) {
  define_constant(ops);
  define_pointwise(ops);
  define_conv(ops);
  define_matmul(ops);
  define_pool(ops);
  define_reduce(ops);
  define_norm(ops);
  define_softmax(ops);
  define_shape(ops);
  define_resize(ops);
  define_index(ops);
  define_attention(ops);
  define_recurrent(ops);
  define_creation(ops);
  define_fused(ops);
  define_aten(ops);
}

}  // namespace torchweld
