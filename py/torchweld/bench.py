"""Times compiled modules against their peers, in one process, interleaved, on random data; keeps the raw numbers.

Peers: eager; frozen TorchScript (channels-last, in a CUDA graph on CUDA); optionally torch.compile (inductor). All run
in the same precision on the same inputs, already on the device. A record is one model at one batch size and precision;
its fields are in docs/performance/README.md.
"""

import argparse
import collections
import copy
import datetime
import gc
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

import torch

from . import _C, __version__, _floors, _inputs, _models
from ._compare import compare
from ._compile import compile, explain
from ._inputs import Input

PEERS = ("eager", "frozen_graph", "inductor")


def add_arguments(parser):
    parser.add_argument(
        "models",
        nargs="+",
        help="names of torchvision models, transformers/TYPE for a text model of transformers (bert, gpt2; both with "
        "seeded weights), or saved TorchScript files",
    )
    parser.add_argument("--input", action="append", help='shapes for files, "(1,3,224,224)@f16"')
    parser.add_argument("--side", type=_count, help="pixels of torchvision's pictures; default: 224, 299 or 512")
    parser.add_argument("--sequence", type=_count, default=128, help="tokens of a text")
    parser.add_argument("--batch", type=_count, nargs="+", help="default: 1; files have the one of --input")
    parser.add_argument(
        "--precision", nargs="+", default=["f32"], help="f32 f16 bf16; modules and inputs are of this dtype"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=_count, default=5)
    parser.add_argument("--calls", type=_count, help="calls in each repeat; default: 100, or as many as fit 1 s")
    parser.add_argument("--optimization-level", type=int, default=3, choices=range(6))
    parser.add_argument("--timing-cache")
    parser.add_argument(
        "--no-warm-build", action="store_true", help="leave out the second build, in a new process: 15 to 30 s a model"
    )
    parser.add_argument(
        "--new-shapes", action="store_true", help="also time first calls at batch sizes that have no plan yet"
    )
    parser.add_argument("--peers", nargs="*", default=["eager", "frozen_graph"], choices=list(PEERS))
    parser.add_argument("--json", help="append the records to this file")
    parser.set_defaults(action=run)


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _check(args):
    """Raises ValueError or RuntimeError for arguments that cannot be right, and OSError for files, before any work."""
    for precision in args.precision:
        _inputs.to_dtype(precision, "--precision")
    for model in filter(_models.is_file, args.models):
        if not args.input:
            raise ValueError(f"{model}: a file needs --input for each of its arguments")
        rows = _file_batch(args)
        if args.batch not in (None, [rows]):
            raise ValueError(
                f"--batch {' '.join(map(str, args.batch))}: the inputs of {model} are those of --input, whose first "
                f"dimension is {rows}; leave --batch out"
            )
    if args.json:
        _write(args.json, _records(args.json))


def _file_batch(args):
    """The batch size of saved files: the first dimension of their first input."""
    return (_inputs.parse_input(args.input[0]).opt_shape or (1,))[0]


def run(args):
    _check(args)
    if torch.device(args.device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True  # as Torchweld and cuDNN do
    print(
        f"{'model':<22} {'batch':>5} {'prec':>5} {'torchweld':>10} {'best peer':>10} {'ratio':>6} {'host us':>8} "
        f"{'p99 ms':>8} {'err/allowed':>11}  peers (ms)"
    )
    failed = 0
    for model in args.models:
        for batch in [_file_batch(args)] if _models.is_file(model) else args.batch or [1]:
            for precision in args.precision:
                try:
                    record = measure(model, batch, precision, args)
                    _print_row(record)
                    if args.json:
                        _write(args.json, [*_records(args.json), record])
                except Exception as error:  # A model's own may be of any kind. The others are measured all the same.
                    failed += 1
                    reason = str(error) or type(error).__name__
                    print(f"error: {model}, batch {batch}, {precision}: {reason}", file=sys.stderr)
    return 2 if failed else 0


def measure(name, batch, precision, args):
    """One record."""
    dtype = _inputs.to_dtype(precision, "--precision")
    on_cuda = torch.device(args.device).type == "cuda"
    if on_cuda:  # What models before this one left behind does not count.
        torch.compiler.reset()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        bytes_before = torch.cuda.memory_allocated()
    module, inputs = _models.load(name, batch, dtype, args)
    script = module
    if not isinstance(module, torch.jit.ScriptModule):
        script = torch.jit.trace(module, inputs, check_trace=False, strict=False)
    with tempfile.TemporaryDirectory() as folder:
        options = dict(
            enabled_precisions={torch.float32, dtype},
            timing_cache=args.timing_cache or os.path.join(folder, "timings"),
            optimization_level=args.optimization_level,
        )
        compiled, build_s = _build(script, inputs, options)
        peak_mb = (torch.cuda.max_memory_allocated() - bytes_before) / 2**20 if on_cuda else 0.0
        warm_build_s = None if args.no_warm_build else _warm_build_seconds(script, inputs, options, folder)
        first_call_ms, planning_s = _first_calls(script, inputs, options) if args.new_shapes else (None, None)
    report = explain(compiled)
    steps = [step for engine in report.engines for step in engine.steps]
    device = device_name(args.device)
    floors = _floors.floors(steps, _floors.device_of(device), dtype)
    accuracy = compare(module, compiled, inputs).worst
    runners = {"torchweld": lambda: compiled(*inputs)} | _peers(module, script, inputs, args)
    with torch.inference_mode():
        times = interleave(runners, args.repeats, args.calls)
        latencies = _latencies(runners["torchweld"], on_cuda)
        host_us, moving_host_us, operator_us = _host_microseconds(
            [runners["torchweld"], _moving(compiled, inputs), _scripted_operator(inputs[0])], on_cuda
        )
    return {
        "model": name, "batch": batch, "precision": precision, "device": device,
        "threads": torch.get_num_threads(), "clocks": _clocks() if on_cuda else "", "commit": _commit(),
        "torch": torch.__version__, "torchweld": __version__, "python": platform.python_version(),
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "torchweld_ms": statistics.median(times["torchweld"]), "torchweld_p50_ms": _percentile(latencies, 50),
        "torchweld_p99_ms": _percentile(latencies, 99), "host_us": host_us,
        "moving_host_us": moving_host_us, "operator_us": operator_us,
        "first_call_ms": first_call_ms, "planning_s": planning_s,
        "kernels_per_call": sum(engine.launches for engine in report.engines),
        "steps": [
            [_name(step.op), step.tactic, round(step.microseconds, 2), floor and round(floor, 2)]
            for step, floor in zip(steps, floors, strict=True)
        ],
        "engines": len(report.engines),
        "fallbacks": [f.op for f in report.fallbacks], "optimization_level": args.optimization_level,
        "build_s": build_s, "warm_build_s": warm_build_s, "peak_gpu_mb": peak_mb,
        "peers": {peer: statistics.median(values) for peer, values in times.items() if peer != "torchweld"},
        "raw_ms": times, "error": accuracy.error, "eager_error": accuracy.eager_error,
        "error_ratio": accuracy.ratio,
    }  # fmt: skip


def _build(script, inputs, options):
    """The compiled module, and the seconds of compile() and the first call."""
    start = time.perf_counter()
    compiled = compile(script, inputs, **options)
    with torch.inference_mode():
        compiled(*inputs)
        _sync(inputs[0].is_cuda)
    return compiled, time.perf_counter() - start


def _warm_build_seconds(script, inputs, options, folder):
    """The seconds of _build in a new process, which finds on disk what the first build left there, and nothing else.

    In this one machine code would be in memory.
    """
    module, arguments = os.path.join(folder, "module.ts"), os.path.join(folder, "arguments.pt")
    torch.jit.save(script, module)
    torch.save({"inputs": inputs, "options": options, "tf32": torch.backends.cuda.matmul.allow_tf32}, arguments)
    # Files may hold operators of torchvision.
    program = ("import torchvision; " if "torchvision" in sys.modules else "") + (
        f"from torchweld import bench; print('seconds', bench.build_saved({module!r}, {arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    if done.returncode != 0:
        raise RuntimeError(f"the module was compiled once and could not be again in a new process: {done.stderr}")
    return float(done.stdout.split()[-1])


def build_saved(module, arguments):
    """The seconds of _build for a file of torch.jit.save and one of torch.save with its arguments.

    As before the first build, LibTorch has run the module once, so that its libraries are there.
    """
    given = torch.load(arguments)
    torch.backends.cuda.matmul.allow_tf32 = given["tf32"]
    script = torch.jit.load(module)
    with torch.inference_mode(), torch.jit.optimized_execution(False):
        script(*given["inputs"])
        _sync(given["inputs"][0].is_cuda)
    return _build(script, given["inputs"], given["options"])[1]


def _name(op):
    """An operation in one short line; of a fused one, what it consists of and what it reads."""
    if op.startswith("fused{"):
        reads = re.search(r"%x0: (\w+\[[\d,]*\])", op)
        parts = [part for part in re.findall(r"= (\w+)", op) if part not in ("constant", "fused")]
        op = f"{' '.join(parts)}({reads[1] if reads else ''})"
    return " ".join(op.split())[:100]


def _peers(module, script, inputs, args):
    peers = {}
    if "eager" in args.peers:
        peers["eager"] = lambda: module(*inputs)
    if "inductor" in args.peers:
        made = torch.compile(module, mode="reduce-overhead" if inputs[0].is_cuda else None)
        peers["inductor"] = lambda: made(*inputs)
        with torch.inference_mode():
            for _ in range(3):  # Its recording frees cuBLAS's workspaces, which a graph recorded before would use.
                made(*inputs)
    if "frozen_graph" in args.peers:
        peers["frozen_graph"] = frozen_peer(script, inputs)
    return peers


def frozen_peer(script, inputs):
    """A call of a module, frozen, channels-last; on CUDA the replay of its CUDA graph, nothing copied."""
    script = copy.deepcopy(script)
    for parameter in script.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    inputs = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs]
    frozen = torch.jit.freeze(script.eval())
    if inputs[0].is_cuda:
        return _graphed(frozen, inputs)
    frozen = torch.jit.optimize_for_inference(frozen)
    return lambda: frozen(*inputs)


def _graphed(module, inputs):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.inference_mode():
        for _ in range(5):
            module(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        results = module(*inputs)
    kept = module, inputs, results  # The graph reads and writes their memory and runs code that the module holds.
    return lambda: (graph.replay(), kept)


def _sync(on_cuda):
    if on_cuda:
        torch.cuda.synchronize()


def interleave(runners, repeats=5, calls=None):
    """{name: milliseconds a call, one number for each repeat}; the runners take turns, after 200 ms of warm-up each.

    calls: in each repeat; None: 1 to 100, as many as fit a second between all runners.
    """
    on_cuda = torch.cuda.is_available()
    counts = {}
    for name, call in runners.items():
        call()
        done, start = 0, time.perf_counter()
        while time.perf_counter() < start + 0.2:
            call()
            _sync(on_cuda)
            done += 1
        fitting = done * 5 / len(runners)
        counts[name] = calls or int(min(100, max(1, fitting)))
    times = {name: [] for name in runners}
    for _ in range(repeats):
        for name, call in runners.items():
            times[name].append(_time_loop(call, counts[name], on_cuda))
    return times


def _time_loop(call, calls, on_cuda):
    _sync(on_cuda)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    _sync(on_cuda)
    return (time.perf_counter() - start) / calls * 1e3


def _latencies(call, on_cuda):
    """Milliseconds of single calls, each waited for: 500 of them, fewer when they would take more than 2 s."""
    times, end = [], time.perf_counter() + 2
    while len(times) < 500 and (len(times) < 10 or time.perf_counter() < end):
        start = time.perf_counter()
        call()
        _sync(on_cuda)
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _scripted_operator(x):
    """A call of a scripted module that does next to nothing."""

    class Empty(torch.nn.Module):
        def forward(self, x):
            return torch.empty_like(x)

    scripted = torch.jit.freeze(torch.jit.script(Empty().eval()))
    return lambda: scripted(x)


def _moving(compiled, inputs):
    """A call whose inputs, and results, are at other addresses than those of the call before."""
    sets = itertools.cycle([[x.clone() for x in inputs] for _ in range(3)])
    results = collections.deque(maxlen=3)
    return lambda: results.append(compiled(*next(sets)))


def _host_microseconds(calls, on_cuda):
    """Time until each of the calls returns, the device not waited for; they take turns.

    Few calls at once, so that no queue fills.
    """
    if not on_cuda:
        return [0.0] * len(calls)
    times = [[] for _ in calls]
    for _ in range(30):
        for call, of_call in zip(calls, times, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(10):
                call()
            of_call.append((time.perf_counter() - start) / 10 * 1e6)
    torch.cuda.synchronize()
    return [statistics.median(of_call) for of_call in times]


def _first_calls(script, inputs, options):
    """Milliseconds until the first calls at three new batch sizes return, and seconds until there are plans for them.

    One after the other, and each has the machine to itself. The module is compiled again, for a range of batch sizes;
    timings and machine code are known from the first time.
    """
    on_cuda = inputs[0].is_cuda
    batch = inputs[0].shape[0]
    new = [batch + more for more in (1, 2, 3)]
    specs = [
        Input(min_shape=x.shape, opt_shape=x.shape, max_shape=(max(new), *x.shape[1:]), dtype=x.dtype) for x in inputs
    ]
    compiled = compile(script, specs, **options)
    calls, plans = [], []
    with torch.inference_mode():
        for size in (batch, *new):
            x = [torch.cat([x] * -(-size // batch))[:size] for x in inputs]
            _sync(on_cuda)
            start = time.perf_counter()
            compiled(*x)
            calls.append((time.perf_counter() - start) * 1e3)
            _C.finish_planning()
            plans.append(time.perf_counter() - start)
            _sync(on_cuda)
    return calls[1:], plans[1:]


def _percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def device_name(device):
    """What the GPU, or the processor, calls itself."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _clocks():
    return _output_of(["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader"])


def _commit():
    return _output_of(["git", "rev-parse", "--short", "HEAD"])


def _records(path):
    """The records in a file; none where there is no file. Raises ValueError where it holds something else."""
    try:
        with open(path) as file:
            records = json.loads(file.read() or "[]")
    except FileNotFoundError:
        return []
    except ValueError:
        records = None
    if not isinstance(records, list):
        raise ValueError(f"--json: {path} holds something else than a list of records; name another file")
    return records


def _write(path, records):
    """Writes the file anew, whole or not at all."""
    temporary = f"{os.path.realpath(path)}.{os.getpid()}"
    try:
        with open(temporary, "w") as file:
            json.dump(records, file, indent=1)
            file.write("\n")
        os.replace(temporary, os.path.realpath(path))
    except OSError as error:
        raise OSError(f"--json: {path} cannot be written ({error.strerror}); name a writable file") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _print_row(r):
    best = min(r["peers"].values(), default=float("nan"))
    peers = ", ".join(f"{name} {value:.3f}" for name, value in r["peers"].items())
    print(
        f"{r['model']:<22} {r['batch']:>5} {r['precision']:>5} {r['torchweld_ms']:>10.3f} {best:>10.3f} "
        f"{best / r['torchweld_ms']:>6.2f} {r['host_us']:>8.1f} {r['torchweld_p99_ms']:>8.3f} "
        f"{r['error_ratio']:>11.2f}  {peers}",
        flush=True,
    )
