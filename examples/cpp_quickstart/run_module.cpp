// Runs a module that was compiled and saved elsewhere. Nothing here is Torchweld's: linking the library is enough.
//   run_module compiled.ts [batch] [N]
#include <torch/script.h>

#include <iostream>

int main(int count, char** arguments) {
  if (count < 2) {
    std::cerr << "usage: run_module compiled.ts [batch] [side]\n";
    return 2;
  }
  const int64_t batch = count > 2 ? std::atoll(arguments[2]) : 1;
  const int64_t side = count > 3 ? std::atoll(arguments[3]) : 224;
  try {
    torch::jit::Module module = torch::jit::load(arguments[1]);
    torch::InferenceMode guard;
    at::Tensor images = torch::linspace(-1, 1, batch * 3 * side * side).view({batch, 3, side, side});
    at::Tensor scores = module.forward({images}).toTensor();
    std::cout.precision(9);
    std::cout << "sizes " << scores.sizes() << " sum " << scores.to(torch::kDouble).sum().item<double>() << " best "
              << scores[0].argmax().item<int64_t>() << "\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
