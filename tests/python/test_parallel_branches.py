"""Independent branches of a plan run side by side on the GPU, with the results that they have one after the other."""

import concurrent.futures

import pytest
import torch
import torchweld

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

PARALLEL, SERIAL = "parallel_branches", "one_stream"


def conv(inputs, outputs, size=3):
    layer = torch.nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return torch.nn.Sequential(layer, torch.nn.BatchNorm2d(outputs), torch.nn.ReLU())


class Module(torch.nn.Module):
    """Four branches, one of which forks again, that are concatenated."""

    def __init__(self, inputs):
        super().__init__()
        self.one = conv(inputs, 64, 1)
        self.two = torch.nn.Sequential(conv(inputs, 48, 1), conv(48, 64))
        self.three = torch.nn.Sequential(conv(inputs, 64, 1), conv(64, 96), conv(96, 96))
        self.three_wide = conv(96, 32, 1)
        self.three_high = conv(96, 32)
        self.pooled = conv(inputs, 32, 1)

    def forward(self, x):
        three = self.three(x)
        pooled = self.pooled(torch.nn.functional.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.two(x), self.three_wide(three), self.three_high(three), pooled], 1)


class Branches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.modules_in_a_row = torch.nn.Sequential(conv(16, 64), Module(64), Module(224), Module(224))

    def forward(self, x):
        return self.modules_in_a_row(x)


class Towers(torch.nn.Module):
    """Two inputs that meet late, a step that LibTorch runs in the middle, results from both sides."""

    def __init__(self):
        super().__init__()
        self.left = torch.nn.Sequential(conv(16, 64), conv(64, 64), conv(64, 64))
        self.right = torch.nn.Sequential(conv(16, 64), conv(64, 64), conv(64, 64))
        self.behind = Module(64)

    def forward(self, x, y):
        left, right = self.left(x), self.right(y)
        both = torch.cummax(left + right, 1)[0]
        return left * 2.0, self.behind(both), right


def images(net, batch=1):
    count = 1 if isinstance(net, Branches) else 2
    return [torch.randn(batch, 16, 24, 24, device="cuda", dtype=torch.half) for _ in range(count)]


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


class Built:
    """A net compiled both ways, with the same kernels."""

    def __init__(self, net, folder):
        torch.manual_seed(0)
        self.net = net.eval().cuda().half()
        self.cache = folder / "timings.txt"
        self.measured = self.build()
        lines = self.cache.read_text().splitlines()
        self.choices = [line.split("\t")[1] for line in lines if " | branches of " in line]
        self.parallel = self.build(PARALLEL)
        self.serial = self.build(SERIAL)

    def build(self, choice=None):
        if choice:
            lines = self.cache.read_text().splitlines()
            chosen = [line.replace(PARALLEL, choice).replace(SERIAL, choice) for line in lines]
            self.cache.write_text("\n".join(chosen) + "\n")
        script = torch.jit.script(self.net)
        options = {"optimization_level": 1, "timing_cache": str(self.cache)}
        return torchweld.compile(script, images(self.net), outside_range="build", **options)


@pytest.fixture(params=[Branches, Towers])
def built(request, tmp_path):
    return Built(request.param(), tmp_path)


def streams(compiled):
    (engine,) = torchweld.explain(compiled).engines
    return engine.streams


def test_measured_choice_is_what_runs(built):
    (choice,) = built.choices
    assert streams(built.measured) == (1 if choice == SERIAL else streams(built.parallel))
    assert 1 < streams(built.parallel) <= 4 and streams(built.serial) == 1


def test_same_results_wherever_inputs_lie(built):
    kept = []
    for _ in range(30):
        inputs = images(built.net)
        ours, expected = (as_tuple(compiled(*inputs)) for compiled in (built.parallel, built.serial))
        kept.append((ours, expected, [x.clone() for x in ours]))
        for ours_one, eager in zip(ours, as_tuple(built.net(*inputs)), strict=True):
            torch.testing.assert_close(ours_one, eager, rtol=0.02, atol=0.02)
    for ours, expected, copies in kept:
        for x, y, copy in zip(ours, expected, copies, strict=True):
            assert torch.equal(x, y) and torch.equal(x, copy)


def test_threads_with_streams_of_their_own(built):
    inputs = [images(built.net) for _ in range(8)]
    expected = [as_tuple(built.serial(*x)) for x in inputs]
    torch.cuda.synchronize()

    def work(i):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(40):
                results = as_tuple(built.parallel(*inputs[i]))
                stream.synchronize()
                if not all(map(torch.equal, results, expected[i])):
                    return i
        return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [None] * 8


def test_one_call_after_the_other_without_waiting(built):
    """A call's branches do not run into those of the call before, which works in the same arena."""
    inputs = [images(built.net) for _ in range(2)]
    expected = [as_tuple(built.serial(*x)) for x in inputs]
    results = [as_tuple(built.parallel(*inputs[i % 2])) for i in range(100)]
    for i, result in enumerate(results):
        assert all(map(torch.equal, result, expected[i % 2]))


def test_saved_choice(built, tmp_path):
    for compiled in (built.measured, built.parallel, built.serial):
        path = str(tmp_path / "net.ts")
        torch.jit.save(compiled, path)
        loaded = torchweld.load(path)
        inputs = images(built.net)
        for _ in range(4):
            assert all(map(torch.equal, as_tuple(loaded(*inputs)), as_tuple(compiled(*inputs))))
        assert streams(loaded) == streams(compiled)


def test_switched_off(built, monkeypatch):
    monkeypatch.setenv("TORCHWELD_DISABLE", "leave_slow_segments,parallel_branches")
    built.cache.unlink()
    compiled = built.build()
    assert streams(compiled) == 1
    assert " | branches of " not in built.cache.read_text()


def test_untuned_shape_is_serial_and_right(built):
    inputs = images(built.net, batch=3)
    for _ in range(4):
        ours = as_tuple(built.parallel(*inputs))
    for x, y in zip(ours, as_tuple(built.net(*inputs)), strict=True):
        torch.testing.assert_close(x, y, rtol=0.02, atol=0.02)


def test_memory(built):
    """Steps side by side need more memory, within limits; calls leave none behind."""
    serial, parallel = (torchweld.explain(c).engines[0].arena_bytes for c in (built.serial, built.parallel))
    assert 0 < parallel <= 8 * serial
    inputs = images(built.net)
    for _ in range(3):
        built.parallel(*inputs)
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        built.parallel(*inputs)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
