"""Saved modules: fresh processes, state_dict, the timing cache, copies."""

import copy
import io
import os
import subprocess
import sys

import pytest
import torch
import torchweld

IMAGE = torchweld.Input(min_shape=(1, 3, 16, 16), opt_shape=(2, 3, 16, 16), max_shape=(8, 3, 16, 16))
RUN_SAVED = """
import sys, torch, torchweld
module = torch.jit.load(sys.argv[1])
inputs = torch.load(sys.argv[2])
for x in inputs:
    torchweld.warm_up(module, [x])
torch.save([module(x) for x in inputs], sys.argv[3])
print(len(torchweld.explain(module).engines))
"""


@pytest.mark.parametrize("precision", [torch.float32, torch.half])
def test_fresh_process_gives_identical_results(small_net, device, tmp_path, precision):
    if precision == torch.half and device == "cpu":
        pytest.skip("half precision on CUDA")
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE], enabled_precisions={torch.float32, precision})
    inputs = [torch.randn(n, 3, 16, 16, device=device) for n in (1, 2, 5)]
    for x in inputs:
        torchweld.warm_up(compiled, [x])
    results = [compiled(x) for x in inputs]
    module, data, answer = (str(tmp_path / name) for name in ("net.ts", "in.pt", "out.pt"))
    torch.jit.save(compiled, module)
    torch.save(inputs, data)
    done = subprocess.run([sys.executable, "-c", RUN_SAVED, module, data, answer], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"
    for a, b in zip(results, torch.load(answer), strict=False):
        assert torch.equal(a, b)


IN_ANOTHER_LOCALE = '''
import io, json, locale, sys, torch, torchweld
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
scaled = torch.jit.CompilationUnit("""def scaled(x, by: float):
    return torch.relu(x) * by + 1.25
""").scaled
x, buffer = torch.randn(2, 3), io.BytesIO()
module = torchweld.compile(scaled, [x, 0.5], min_block_size=1)
torch.jit.save(module, buffer)
buffer.seek(0)
module = torch.jit.load(buffer)
assert "scalars=[0.5]" in str(module.segment_0.engine.__getstate__())
report = torchweld.explain(module)
assert json.loads(report.to_json())["operations"] == 3 and "100.0 %" in report.text, report.text
torch.testing.assert_close(module(x, 0.5), scaled(x, 0.5))
'''


def test_numbers_have_points_in_every_locale(tmp_path):
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], capture_output=True)
    if made.returncode != 0:
        pytest.skip("no sources of locales")
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_LOCALE],
        capture_output=True,
        text=True,
        env=os.environ | {"LOCPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr


def through_a_buffer(module, **options):
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer, **options)


def test_saving_again_and_state_dict(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    x = torch.randn(2, 3, 16, 16, device=device)
    again = through_a_buffer(through_a_buffer(compiled))
    assert torch.equal(again(x), compiled(x))
    total = sum(t.numel() for t in small_net.parameters())
    assert sum(t.numel() for t in compiled.state_dict().values()) >= total


def test_deepcopy(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    x = torch.randn(2, 3, 16, 16, device=device)
    assert torch.equal(copy.deepcopy(compiled)(x), compiled(x))


def tactics(module):
    return [step.tactic for engine in torchweld.explain(module).engines for step in engine.steps]


class Excited(torch.nn.Module):
    """An inverted residual with squeeze-excitation inside."""

    def __init__(self):
        super().__init__()
        self.expand, self.project = torch.nn.Conv2d(24, 144, 1), torch.nn.Conv2d(144, 24, 1)
        self.depthwise = torch.nn.Conv2d(144, 144, 3, padding=1, groups=144)
        self.squeeze, self.excite = torch.nn.Conv2d(144, 8, 1), torch.nn.Conv2d(8, 144, 1)

    def forward(self, x):
        y = torch.nn.functional.silu(self.depthwise(torch.nn.functional.silu(self.expand(x))))
        gate = torch.nn.functional.silu(self.squeeze(y.mean((2, 3), keepdim=True)))
        return x + self.project(y * torch.sigmoid(self.excite(gate)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_block_that_was_never_timed_does_not_replace_timed_parts(monkeypatch):
    """As in modules from before there was a kernel for the block."""
    torch.manual_seed(3)
    net = Excited().eval().cuda().half().to(memory_format=torch.channels_last)
    x = torch.randn(1, 24, 28, 28, device="cuda", dtype=torch.half).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        script = torch.jit.freeze(torch.jit.script(net))
        monkeypatch.setenv("TORCHWELD_DISABLE", "cuda_excited_residual")
        parts = torchweld.compile(script, [x])
        monkeypatch.delenv("TORCHWELD_DISABLE")
        whole = torchweld.compile(script, [x])
        for compiled in (parts, whole):
            loaded = through_a_buffer(compiled)
            assert tactics(loaded) == tactics(compiled)
            torch.testing.assert_close(loaded(x), net(x), rtol=0.01, atol=0.01)


def test_timing_cache_is_text_and_makes_compilation_repeatable(small_net, device, tmp_path):
    cache = tmp_path / "timings.txt"
    script = torch.jit.script(small_net)
    first = torchweld.compile(script, [IMAGE], timing_cache=cache)
    text = cache.read_text()
    second = torchweld.compile(script, [IMAGE], timing_cache=cache)
    assert cache.read_text() == text

    assert tactics(first) == tactics(second)


def test_timings_of_kernels_that_are_not_here_are_taken_again(small_net, device, tmp_path):
    cache = tmp_path / "timings.txt"
    script = torch.jit.script(small_net)
    torchweld.compile(script, [IMAGE], timing_cache=cache)
    known = [line.split("\t") for line in cache.read_text().splitlines()]
    cache.write_text("".join("\t".join([key, "of_another_library", "42", "0.5"]) + "\n" for key, *_ in known))
    torchweld.compile(script, [IMAGE], timing_cache=cache)
    again = {key: (tactic, float(time)) for key, tactic, _, time in map(lambda s: s.split("\t"), open(cache))}
    timed = [key for key, _, _, time in known if float(time) > 0 and " steps, " not in key]
    assert timed and all(again[key][0] != "of_another_library" and again[key][1] > 0 for key in timed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_map_location_moves_to_another_device(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    path = str(tmp_path / "net.ts")
    torch.jit.save(torchweld.compile(torch.jit.script(net), [torchweld.Input((2, 4))]), path)
    x = torch.randn(2, 4)
    moved = torchweld.load(path, map_location="cuda:0")
    torch.testing.assert_close(moved(x.cuda()).cpu(), net(x), rtol=1e-3, atol=1e-3)


def test_file_opened_without_torchweld_names_it(small_net, tmp_path):
    """LibTorch's own message must let a stranger find out what is missing."""
    path = str(tmp_path / "net.ts")
    torch.jit.save(torchweld.compile(torch.jit.script(small_net.cpu()), [IMAGE]), path)
    done = subprocess.run(
        [sys.executable, "-c", f"import torch; torch.jit.load({path!r})"], capture_output=True, text=True
    )
    assert done.returncode != 0 and "torchweld" in done.stderr
