"""python -m torchweld compile | bench | explain | compare | env"""

import argparse
import os
import sys

import torch

import torchweld
from torchweld import _C, _figures, _inputs, bench
from torchweld._compile import _device_text


def _parser():
    parser = argparse.ArgumentParser(prog="python -m torchweld", description="Compiles TorchScript modules.")
    commands = parser.add_subparsers(dest="command", required=True)
    shapes = 'one for each argument: "(1,3,224,224)@f16", or "[(1,3,224,224);(8,3,224,224);(32,3,224,224)]@f32"'

    one = commands.add_parser("compile", help="compile a saved TorchScript module and save the result")
    one.add_argument("module", help="file written by torch.jit.save")
    one.add_argument("-o", "--output", required=True, help="file to write")
    one.add_argument("--input", action="append", required=True, help=shapes)
    one.add_argument("--precision", action="append", default=[], help="f16 or bf16; f32 is always allowed")
    one.add_argument("--device", help='"cpu" or "cuda:0"; default: where the weights are')
    one.add_argument("--min-block-size", type=int, default=3)
    one.add_argument("--require-full-compilation", action="store_true")
    one.add_argument(
        "--torch-executed-op", action="append", default=[], help='an operator left to LibTorch, "aten::relu"'
    )
    one.add_argument(
        "--torch-executed-module", action="append", default=[], help="a module class or path left to LibTorch"
    )
    one.add_argument("--disable-tf32", action="store_true")
    one.add_argument("--workspace-size", type=int, default=0)
    one.add_argument("--optimization-level", type=int, default=3)
    one.add_argument("--timing-cache", help="text file read before tuning and written after")
    one.add_argument("--outside-range", choices=["torch", "error", "build"], default="torch")
    one.add_argument("--dry-run", action="store_true", help="print what would be compiled and write nothing")
    one.set_defaults(action=_compile)

    explain = commands.add_parser("explain", help="print what a compiled module holds")
    explain.add_argument("module", help="file written by torch.jit.save")
    explain.add_argument("--device", help="load it there")
    explain.add_argument("--json", action="store_true")
    explain.set_defaults(action=_explain)

    compare = commands.add_parser("compare", help="compare a compiled module with the original on random data")
    compare.add_argument("module", help="the original")
    compare.add_argument("compiled")
    compare.add_argument("--input", action="append", required=True, help="fixed shapes: " + shapes)
    compare.add_argument("--precision", help="the reduced precision that was enabled: f16 or bf16")
    compare.add_argument("--device", default="cpu")
    compare.set_defaults(action=_compare)

    bench.add_arguments(commands.add_parser("bench", help="time a module against its peers in one process"))

    _figures.add_arguments(commands.add_parser("figures", help="a page from the records that bench writes"))

    env = commands.add_parser("env", help="print the environment variables that Torchweld reads")
    env.set_defaults(action=_env)
    return parser


def _compile(args):
    module = torch.jit.load(args.module, map_location=args.device)
    common = dict(
        enabled_precisions={torch.float32} | {_inputs.to_dtype(p, "--precision") for p in args.precision},
        device=args.device,
        min_block_size=args.min_block_size,
        require_full_compilation=args.require_full_compilation,
        torch_executed_ops=args.torch_executed_op,
        torch_executed_modules=args.torch_executed_module,
    )
    inputs = [_inputs.parse_input(text) for text in args.input]
    if args.dry_run:
        print(torchweld.dry_run(module, inputs, **common).text)
        return 0
    if os.path.isdir(args.output) or not os.access(os.path.dirname(os.path.abspath(args.output)), os.W_OK):
        raise OSError(f"-o: {args.output} cannot be written; name a file in a writable folder")
    progress = None
    if sys.stderr.isatty():
        progress = lambda what, share: print(f"\r\033[K{share:4.0%} {what}", end="", file=sys.stderr, flush=True)
    compiled = torchweld.compile(
        module,
        inputs,
        disable_tf32=args.disable_tf32,
        workspace_size=args.workspace_size,
        optimization_level=args.optimization_level,
        timing_cache=args.timing_cache,
        outside_range=args.outside_range,
        progress=progress,
        **common,
    )
    if progress:
        print(file=sys.stderr)
    torch.jit.save(compiled, args.output)
    print(torchweld.explain(compiled).text)
    return 0


def _explain(args):
    report = torchweld.explain(torchweld.load(args.module, map_location=args.device))
    print(report.to_json() if args.json else report.text)
    return 0


def _compare(args):
    original = torch.jit.load(args.module, map_location=args.device)
    compiled = torchweld.load(args.compiled, map_location=args.device)
    inputs = [_inputs.random_tensor(_inputs.parse_input(text), args.device) for text in args.input]
    precision = _inputs.to_dtype(args.precision, "--precision") if args.precision else None
    found = torchweld.compare(original, compiled, inputs, precision=precision)
    print(found.text)
    return 0 if found.passes else 1


def _env(_):
    for name, meaning, fallback in _C.environment_table():
        now = os.environ.get(name)
        state = f"now {now!r}" if now is not None else f"unset, counts as {fallback!r}"
        print(f"{name:<20} {meaning} ({state})")
    return 0


def main(argv=None):
    args = _parser().parse_args(argv)
    try:
        if getattr(args, "device", None):
            args.device = _device_text(args.device)
        return args.action(args)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("TORCHWELD_LOG", "1") >= "2":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
