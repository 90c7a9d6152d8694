#include "tests/ops/cases.h"

namespace torchweld::test {

const std::vector<Case>& recurrent_cases() {
  using enum Dtypes;
  static const std::vector<std::vector<Shape>> lstm{{{4, 2, 6}, {1, 2, 5}, {20, 6}, {20, 5}}};
  static const std::vector<std::vector<Shape>> square{{{4, 2, 5}, {2, 2, 5}, {20, 5}, {20}}};
  static const std::vector<std::vector<Shape>> rnn{{{4, 2, 6}, {1, 2, 5}, {5, 6}, {5, 5}}};
  static const std::vector<std::vector<Shape>> cell{{{2, 6}, {2, 5}, {20, 6}, {20, 5}}};
  static const std::vector<Case> cases{
      {"lstm", "a, b, c = torch.lstm(x, [y, y], [z, w], False, 1, 0.0, False, False, False)\n  return a, b, c", lstm},
      {"lstm_batch_first",
       "a, b, c = torch.lstm(x, [y, y], [z, w], False, 1, 0.0, False, False, True)\n  return a, b, c",
       {{{2, 4, 6}, {1, 2, 5}, {20, 6}, {20, 5}}},
       kFloat,
       "",
       "",
       true},
      {"lstm_two_layers",
       "a, b, c = torch.lstm(x, [y, y], [z, z, w, w, z, z, w, w], True, 2, 0.0, False, False, False)\n  return a, b, c",
       square},
      {"lstm_bidirectional",
       "a, b, c = torch.lstm(x, [y, y], [z, z, w, w, z, z, w, w], True, 1, 0.0, False, True, False)\n  return a, b, c",
       square, kFloat, "", "", true},
      {"lstm_projection",
       "a, b, c = torch.lstm(x, [y, torch.cat([y, y], 2)], [z, w, z[:3, :6]], False, 1, 0.0, False, False, False)\n  "
       "return "
       "a, b, c",
       {{{4, 2, 6}, {1, 2, 3}, {24, 6}, {24, 3}}},
       kSingle},
      {"lstm_dropout", "a, b, c = torch.lstm(x, [y, y], [z, w], False, 1, 0.5, True, False, False)\n  return a", lstm,
       kSingle, "", "random numbers"},
      {"lstm_packed", "a, b, c = torch.lstm(x, y, [y, y], [z, w], False, 1, 0.0, False, False)\n  return a", lstm,
       kSingle, "", "not known before it runs"},
      {"gru",
       "a, b = torch.gru(x, y, [z, w], False, 1, 0.0, False, False, False)\n  return a, b",
       {{{4, 2, 6}, {1, 2, 5}, {15, 6}, {15, 5}}}},
      {"gru_two_layers",
       "a, b = torch.gru(x, y, [z, z, w, w, z, z, w, w], True, 2, 0.0, False, False, False)\n  return a, b",
       {{{4, 2, 5}, {2, 2, 5}, {15, 5}, {15}}}},
      {"rnn_tanh", "a, b = torch.rnn_tanh(x, y, [z, w], False, 1, 0.0, False, False, False)\n  return a, b", rnn},
      {"rnn_relu", "a, b = torch.rnn_relu(x, y, [z, w], False, 1, 0.0, False, False, False)\n  return a, b", rnn},
      {"lstm_cell", "a, b = torch.lstm_cell(x, [y, y * 2], z, w)\n  return a, b", cell},
      {"lstm_cell_bias",
       "a, b = torch.lstm_cell(x, [x, x], y, y, z, w)\n  return a, b",
       {{{2, 5}, {20, 5}, {20}, {20}}}},
      {"gru_cell", "torch.gru_cell(x, y, z, w)", {{{2, 6}, {2, 5}, {15, 6}, {15, 5}}}},
      {"gru_cell_bias", "torch.gru_cell(x, x, y, y, z, w)", {{{2, 5}, {15, 5}, {15}, {15}}}},
      {"rnn_tanh_cell", "torch.rnn_tanh_cell(x, y, z, w)", {{{2, 6}, {2, 5}, {5, 6}, {5, 5}}}},
      {"rnn_relu_cell", "torch.rnn_relu_cell(x, y, z, w)", {{{2, 6}, {2, 5}, {5, 6}, {5, 5}}}},
      {"lstm_cell_in_a_loop",
       "h = y\n  c = y\n  for i in range(4):\n    h, c = torch.lstm_cell(x[i], [h, c], z, w)\n  return h, c",
       {{{4, 2, 6}, {2, 5}, {20, 6}, {20, 5}}}},
  };
  return cases;
}

}  // namespace torchweld::test
