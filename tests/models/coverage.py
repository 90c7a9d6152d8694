"""Compiles every model of torchvision, transformers and timm that we name, on the CPU, and writes docs/coverage.md.

    python tests/models/coverage.py select        # which models: writes rows without results to docs/coverage.json
    python tests/models/coverage.py run [PART..]  # fills the rows that have none; PART is a library or a model's name
    python tests/models/coverage.py page          # docs/coverage.md from docs/coverage.json

Weights are random and seeded. Each model is measured in a process of its own with a time limit. Needs torchvision,
transformers and timm, which nothing else here asks for. `again PART..` forgets results, so that `run` makes new ones.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "coverage.json"
PAGE = ROOT / "docs" / "coverage.md"
TIME_LIMIT = 900  # seconds
MOST_PARAMETERS = 60e6  # of timm's; a family without a smaller net is left out

# ---------------------------------------------------------------------------------------------------------------------
# Models: name -> (module, arguments of forward). Pictures of another size than 224, where a net wants them or to be
# quick: what is asked here is whether a model compiles and is right.

SIDES = {"inception_v3": 299, "vit_h_14": 224, "maxvit_t": 224}
DETECTION = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
VIDEOS = {"s3d": (1, 3, 16, 224, 224), "mvit_v1_b": (1, 3, 16, 224, 224), "mvit_v2_s": (1, 3, 16, 224, 224)}


def torchvision_names():
    import torchvision

    return [n for n in torchvision.models.list_models() if not n.startswith("quantized_")]


def torchvision_model(name):
    import torch
    import torchvision

    make = torchvision.models.get_model_builder(name)
    folder = make.__module__.removeprefix("torchvision.models").strip(".").split(".")[0]
    options = {"weights": None}
    if folder in ("detection", "segmentation"):
        options["weights_backbone"] = None
    if folder == "detection" and not name.startswith("ssd"):
        options.update(min_size=256, max_size=320)
    if name in ("inception_v3", "googlenet"):
        options["init_weights"] = True
    net = make(**options).eval()
    if folder == "detection":
        return net, [[torch.rand(3, 200, 260), torch.rand(3, 240, 180)]]
    if folder == "optical_flow":
        return net, [torch.rand(1, 3, 128, 128) * 2 - 1, torch.rand(1, 3, 128, 128) * 2 - 1]
    if folder == "video":
        return settled(net, torch.randn(*VIDEOS.get(name, (1, 3, 8, 64, 64))))
    side = SIDES.get(name, 224)
    return settled(net, torch.randn(1, 3, side, side))


def settled(net, x):
    from torchweld.bench import settle_norms

    if x.dim() == 4:
        settle_norms(net, x.expand(2, *x.shape[1:]))
    return net, [x]


def transformers_names():
    return [
        "BertModel", "DistilBertModel", "RobertaModel", "AlbertModel", "ElectraModel", "MobileBertModel",
        "DebertaV2Model", "MPNetModel", "GPT2Model", "GPTNeoXModel", "OPTModel", "LlamaModel", "MistralModel",
        "Qwen2Model", "T5EncoderModel", "CLIPTextModel", "CLIPVisionModel", "ViTModel", "DeiTModel", "BeitModel",
        "Dinov2Model", "WhisperEncoder", "Wav2Vec2Model",
    ]  # fmt: skip


def transformers_model(name):
    """The library's own default sizes, but two layers."""
    import torch
    import transformers as t

    class FirstOutput(torch.nn.Module):
        def __init__(self, model, *names):
            super().__init__()
            self.model, self.names = model, names

        def forward(self, first, second=None):
            return self.model(**dict(zip(self.names, (first, second), strict=False)))[0]

    cls = getattr(t, "WhisperModel" if name == "WhisperEncoder" else name)
    layers = {"num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2}
    layers.update({"decoder_layers": 1, "use_cache": False})
    known = cls.config_class()
    config = cls.config_class(**{key: value for key, value in layers.items() if hasattr(known, key)})
    net = cls(config)
    if name == "WhisperEncoder":
        return FirstOutput(net.encoder.eval(), "input_features"), [torch.randn(1, config.num_mel_bins, 3000)]
    if name == "Wav2Vec2Model":
        return FirstOutput(net.eval(), "input_values"), [torch.randn(1, 8000)]
    if net.main_input_name == "pixel_values":
        side = config.image_size
        return FirstOutput(net.eval(), "pixel_values"), [torch.randn(1, 3, side, side)]
    ids = torch.randint(5, 1000, (2, 24))
    mask = (torch.arange(24) < torch.tensor([[24], [17]])).long()
    return FirstOutput(net.eval(), "input_ids", "attention_mask"), [ids, mask]


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


def timm_model(name):
    import timm
    import torch

    net = timm.create_model(name, exportable=True).eval()
    return settled(net, torch.randn(1, *net.default_cfg["input_size"]))


LIBRARIES = {
    "torchvision": (torchvision_names, torchvision_model, True),
    "transformers": (transformers_names, transformers_model, False),
    "timm": (timm_names, timm_model, False),
}

# ---------------------------------------------------------------------------------------------------------------------


def measure(library, name):
    """One model, in this process."""
    import torch
    import torchweld

    torch.manual_seed(0)
    torch.set_num_threads(2)
    _, make, script_first = LIBRARIES[library]
    net, inputs = make_quietly(make, name)
    row = {}
    try:
        script, row["form"] = to_script(net, inputs, script_first)
    except Exception as error:
        return {"form": "neither scripts nor traces", "trouble": first_line(error)}
    start = time.perf_counter()
    compiled = torchweld.compile(script, inputs, optimization_level=0)
    row["seconds"] = round(time.perf_counter() - start, 2)
    report = torchweld.explain(compiled)
    row["engines"] = len(report.engines)
    row["flops_in_engines"] = round(report.flops_in_engines, 4)
    row["fallbacks"] = len(report.fallbacks)
    reasons = {}
    for fallback in report.fallbacks:
        reasons[fallback.reason] = reasons.get(fallback.reason, 0) + 1
    row["reasons"] = dict(sorted(reasons.items(), key=lambda item: -item[1])[:5])
    with torch.no_grad():
        compiled(*inputs)  # an engine whose sizes depend on data is planned when they come again
    # A trace holds float32 constants and cannot be a float64 reference; a scripted net may return more than a net does.
    found = torchweld.compare(script if row["form"] == "scripted" else net, compiled, inputs)
    row["reference"] = found.reference
    row["error_ratio"] = round(max((ratio(o) for o in found.outputs), default=0.0), 4)
    row["passes"] = found.passes
    return row


def ratio(output):
    return 0.0 if output.error == 0 else output.error / max(output.allowed, 1e-300)


def make_quietly(make, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(name)


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


def measure_apart(library, name):
    """The same in a process of its own: a crash or an endless compile is a result too."""
    command = [sys.executable, __file__, "one", library, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return {"trouble": f"not done after {TIME_LIMIT} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    lines = [line for line in done.stderr.strip().splitlines() if line]
    return {"trouble": (lines[-1] if lines else f"ended with {done.returncode}")[:300]}


def load():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(rows):
    RESULTS.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


def wanted(parts, library, name):
    return not parts or library in parts or name in parts


def select():
    rows = load()
    for library, (names, _, _) in LIBRARIES.items():
        known = rows.setdefault(library, {})
        for name in names():
            known.setdefault(name, {})
        save(rows)


def run(parts):
    for library, names in load().items():
        for name, known in names.items():
            if known or not wanted(parts, library, name):
                continue
            row = measure_apart(library, name)
            print(library, name, json.dumps({k: v for k, v in row.items() if k != "reasons"}), flush=True)
            rows = load()  # another run may have written meanwhile
            rows[library][name] = row
            save(rows)


def again(parts):
    rows = load()
    for library, names in rows.items():
        for name in names:
            if wanted(parts, library, name):
                names[name] = {}
    save(rows)


def verdict(row):
    if row.get("trouble"):
        return row["trouble"]
    return "equal" if row["passes"] else "outside the rule"


def page():
    import torch

    lines = [
        "# Models",
        "",
        "Generated by `tests/models/coverage.py`: models with random weights, compiled at `optimization_level=0` on",
        f"the CPU in float32 with torch {torch.__version__.split('+')[0]}. FLOPs: the share in engines.",
        "Error: the largest error over the allowed one, by the rule of [compare](user_guide.md#precision); up to 1 is",
        "equal. Compile: seconds on two cores.",
    ]
    for library, names in load().items():
        done = {name: row for name, row in names.items() if row}
        if not done:
            continue
        good = [row for row in done.values() if row.get("passes")]
        lines += ["", f"## {library}: {len(good)} of {len(done)} compile and are equal to eager", ""]
        lines += ["| model | form | engines | FLOPs | left to LibTorch | error | compile | |", "|" + " --- |" * 8]
        for name, row in sorted(done.items()):
            if "engines" not in row:
                lines.append(f"| {name} | {row.get('form', '')} | | | | | | {verdict(row)} |")
                continue
            lines.append(
                f"| {name} | {row['form']} | {row['engines']} | {100 * row['flops_in_engines']:.1f} % "
                f"| {row['fallbacks']} | {row['error_ratio']:.2f} | {row['seconds']:.1f} | {verdict(row)} |"
            )
    PAGE.write_text("\n".join(lines) + "\n")


def main(arguments):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    what, *rest = arguments or [""]
    if what == "one":
        print(json.dumps(measure(*rest)))
    elif what in ("run", "again"):
        {"run": run, "again": again}[what](rest)
    elif what in ("select", "page"):
        {"select": select, "page": page}[what]()
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
