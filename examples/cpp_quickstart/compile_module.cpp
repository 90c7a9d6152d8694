// Compiles a saved TorchScript module for images of 3 x N x N in batches of 1 to 8, and saves the result.
//   compile_module module.ts compiled.ts [N]
#include <torch/script.h>
#include <torchweld/torchweld.h>

#include <iostream>

int main(int count, char** arguments) {
  if (count < 3) {
    std::cerr << "usage: compile_module module.ts compiled.ts [side]\n";
    return 2;
  }
  const int64_t side = count > 3 ? std::atoll(arguments[3]) : 224;
  try {
    torch::jit::Module module = torch::jit::load(arguments[1]);
    module.eval();
    torchweld::Input images({1, 3, side, side}, {4, 3, side, side}, {8, 3, side, side});
    torch::jit::Module compiled = torchweld::compile(module, torchweld::Signature::of({images}));
    std::cout << torchweld::explain(compiled).text() << "\n";
    compiled.save(arguments[2]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
