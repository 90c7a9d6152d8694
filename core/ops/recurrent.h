// Recurrent layers.
#pragma once

#include "core/graph.h"

namespace torchweld {

/// torch.nn.LSTM, GRU or RNN over whole sequences. Kinds: lstm gru rnn_tanh rnn_relu. Inputs: x [T,N,I], or [N,T,I]
/// with batch_first, h0 [layers * directions, N, H] (H of the projection where there is one), for lstm c0 of the cell's
/// size, then per layer and direction the weights w_ih, w_hh, with biases b_ih and b_hh, with projections w_hr.
/// Outputs: y, like x with directions * H features, h_n like h0, for lstm c_n like c0. Gates stand in the order of
/// LibTorch. No dropout.
struct Recurrent {
  std::string kind = "lstm";
  int64_t layers = 1;
  bool biases = true;
  bool bidirectional = false;
  bool batch_first = false;

  void fields(auto&& f) {
    f("kind", kind);
    f("layers", layers);
    f("biases", biases);
    f("bidirectional", bidirectional);
    f("batch_first", batch_first);
  }
};

void define_recurrent(OpSet& ops);

}  // namespace torchweld
