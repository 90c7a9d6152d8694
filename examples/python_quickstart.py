"""Compile, call, save, load: the shortest useful program."""

import tempfile

import torch
import torchvision
import torchweld

network = torchvision.models.squeezenet1_1(weights=None).eval()
compiled = torchweld.compile(
    torch.jit.script(network),
    inputs=[torchweld.Input(min_shape=(1, 3, 224, 224), opt_shape=(1, 3, 224, 224), max_shape=(8, 3, 224, 224))],
)
x = torch.randn(2, 3, 224, 224)
print("largest difference from eager:", float((compiled(x) - network(x)).abs().max()))

with tempfile.TemporaryDirectory() as folder:
    torch.jit.save(compiled, f"{folder}/compiled.ts")
    again = torch.jit.load(f"{folder}/compiled.ts")
print("after saving and loading:", "identical" if torch.equal(again(x), compiled(x)) else "different")
print(torchweld.explain(compiled).text)
