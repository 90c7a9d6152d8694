"""A segment that measures slower than LibTorch is left to it.

What is slow here is an operator that waits, on one of the two sides. It knows the side by its input: a value inside an
engine lies in the engine's one block of memory, in LibTorch each tensor has memory of its own.
"""

import contextlib
import pathlib
import sys
import time
from typing import List, Optional

import pytest
import torch
import torchweld

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from checking import operators, same

WAIT = 0.01  # seconds; without it a call takes some 20 us


class Net(torch.nn.Module):
    def __init__(self, slow):
        super().__init__()
        self.slow = slow

    def forward(self, x):
        return torch.relu(self.slow(torch.sigmoid(x) + 1.0) - 4.0)


class Shifted(Net):
    """A segment that is given a number, a list and a tensor that may be missing."""

    def forward(self, x, by: float, sizes: List[int], also: Optional[torch.Tensor] = None):
        x = self.slow(torch.sigmoid(x) + by).view(sizes)
        if also is not None:
            x = x * also
        return torch.relu(x - 4.0)


@contextlib.contextmanager
def slow_operator(side):
    """(the namespace of `slow`, which waits on that side; the sides on which it ran)."""
    sides = []

    def slow(x):
        sides.append("engine" if x.untyped_storage().nbytes() > x.nbytes else "LibTorch")
        if sides[-1] == side:
            time.sleep(WAIT)
        return x * 3.0

    with operators("slow(Tensor x) -> Tensor", slow=slow, meta_slow=torch.empty_like) as ops:
        yield ops, sides


@contextlib.contextmanager
def compiled_with_a_wait(side, level, **options):
    """(net, its trace compiled, the sides on which the operator runs from now on, what compiles the trace again)."""
    with slow_operator(side) as (ops, sides):
        net, x = Net(ops.slow).eval(), torch.randn(2, 4)
        trace = torch.jit.trace(net, x, check_trace=False)
        rows = torchweld.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))

        def compile():
            sides.clear()
            return torchweld.compile(trace, [rows], optimization_level=level, **options)

        compiled = compile()
        sides.clear()
        yield net, compiled, sides, compile


@pytest.mark.parametrize(
    "side, level, runs_in",
    [
        ("engine", 3, "LibTorch"),
        ("LibTorch", 3, "engine"),
        ("engine", 2, "engine"),  # not measured
    ],
)
def test_slower_segment_is_left_to_libtorch(monkeypatch, tmp_path, side, level, runs_in):
    monkeypatch.setenv("TORCHWELD_DISABLE", "")
    with compiled_with_a_wait(side, level) as (net, compiled, sides, _):
        report = torchweld.explain(compiled)
        left = [f.op for f in report.fallbacks if f.reason.startswith("slower than LibTorch: measured ")]
        assert left == (["segment_0"] if runs_in == "LibTorch" else []), report.text
        assert report.flops_in_engines == (0 if left else 1)
        path = str(tmp_path / "net.ts")
        torch.jit.save(compiled, path)
        loaded = torchweld.load(path)
        if left:  # Nothing is held for it, saved, or planned after loading.
            state = str(compiled.segment_0.engine.__getstate__())
            assert "signatures=[]" in state and 'timings=""' in state, state
            for module in (compiled, loaded):
                report = torchweld.explain(module)
                assert report.engines == [] and report.text.startswith("0 engines with 0 of 5 operations"), report.text
        for module in (compiled, loaded):
            for rows in (2, 2, 5):
                x = torch.randn(rows, 4)
                sides.clear()
                ours = module(x)
                assert sides == [runs_in]
                same(ours, net(x))


@pytest.mark.parametrize("side", ["engine", "LibTorch"])
def test_segment_with_plain_arguments_is_timed(monkeypatch, tmp_path, side):
    monkeypatch.setenv("TORCHWELD_DISABLE", "")
    call, other = (2.0, [-1], torch.ones(1)), (-2.0, [-1, 2], None)
    x, taller = torch.randn(2, 4), torch.randn(5, 4)
    with slow_operator(side) as (ops, sides):
        net = Shifted(ops.slow).eval()
        rows = torchweld.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
        compiled = torchweld.compile(torch.jit.script(net), [rows, *call])
        report = torchweld.explain(compiled)
        left = [f.reason for f in report.fallbacks if f.reason.startswith("slower than LibTorch: ")]
        assert len(left) == len(report.fallbacks) == (side == "engine"), report.text
        assert len(report.engines) == (side == "LibTorch"), report.text
        assert all("slow" in " ".join(step.op for step in engine.steps) for engine in report.engines), report.text
        path = str(tmp_path / "net.ts")
        torch.jit.save(compiled, path)
        faster = "LibTorch" if left else "engine"
        for module in (compiled, torchweld.load(path)):
            calls = [(x, call, faster), (x, other, "LibTorch"), (x, other, faster), (x, call, faster)]
            for given, values, runs_in in (*calls, (taller, call, faster), (taller, other, faster)):
                sides.clear()
                ours = module(given, *values)
                assert sides == [runs_in]
                same(ours, net(given, *values))


@pytest.mark.parametrize("side", ["engine", "LibTorch"])
def test_what_is_in_the_timing_cache_is_not_raced_again(monkeypatch, tmp_path, side):
    monkeypatch.setenv("TORCHWELD_DISABLE", "")
    timings = tmp_path / "timings"
    with compiled_with_a_wait(side, 3, timing_cache=timings) as (_, compiled, sides, compile):
        reasons = [f.reason for f in torchweld.explain(compiled).fallbacks]
        assert len(reasons) == (side == "engine")
        assert reasons == [f.reason for f in torchweld.explain(compile()).fallbacks]
        in_torch = sides.count("LibTorch")
        timings.unlink()
        compile()
        assert sides.count("LibTorch") > in_torch, "both run to be timed"


def test_libtorch_is_timed_as_calls_run_it(monkeypatch):
    """Without gradients, which cost LibTorch time where weights want them; and the engine in its own memory layout."""
    monkeypatch.setenv("TORCHWELD_DISABLE", "")
    seen = {"engine": set(), "LibTorch": set()}

    def look(x):
        seen["engine" if x.untyped_storage().nbytes() > x.nbytes else "LibTorch"].add(torch.is_grad_enabled())
        return x * 3.0

    class Weighted(Net):
        def __init__(self, look):
            super().__init__(look)
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self, x):
            return super().forward(x * self.weight)

    with operators("look(Tensor x) -> Tensor", look=look, meta_look=torch.empty_like) as ops:
        net, x = Weighted(ops.look).eval(), torch.randn(2, 4)
        trace = torch.jit.trace(net, x, check_trace=False)
        for modes in seen.values():
            modes.clear()
        compiled = torchweld.compile(trace, [torchweld.Input((2, 4))])
        assert compiled.segment_0.weight.requires_grad and torch.is_grad_enabled()
    assert seen == {"engine": {False}, "LibTorch": {False}}


def test_the_modules_own_precision_is_tried_before_libtorch(monkeypatch, tmp_path):
    """The timing cache stands for a clock: in it one engine after the other is slow."""
    monkeypatch.setenv("TORCHWELD_DISABLE", "")
    timings = tmp_path / "timings"
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Tanh()).eval()
    trace = torch.jit.trace(net, torch.randn(2, 8))

    def compile():
        compiled = torchweld.compile(
            trace, [torchweld.Input((2, 8))], enabled_precisions={torch.bfloat16}, timing_cache=timings
        )
        return torchweld.explain(compiled)

    def take(microseconds):
        """Sets these times of the engines in the file; returns how many it has."""
        lines, engines = timings.read_text().splitlines(), 0
        for i, line in enumerate(lines):
            if " | an engine of " in line or " | LibTorch " in line:
                key, tactic, config, _ = line.split("\t")
                ours = " | an engine of " in line
                lines[i] = "\t".join([key, tactic, config, str(microseconds if ours else 100.0)])
                engines += ours
        timings.write_text("".join(line + "\n" for line in lines))
        return engines

    compile()
    assert take(1000.0) >= 1
    compile()
    assert take(1000.0) == 2, "the other engine was timed, too"
    assert [f.reason for f in compile().fallbacks] == [
        "slower than LibTorch: measured 1000 us as an engine, 100 us in LibTorch"
    ]
    reduced = take(10.0) and compile()
    assert reduced.fallbacks == [] and "bf16" in reduced.text, reduced.text
    lines = timings.read_text().splitlines()
    engines = [i for i, line in enumerate(lines) if " | an engine of " in line]
    slow_in_bf16 = []
    for slow in engines:
        changed = [line.replace("\t10", "\t1000") if i == slow else line for i, line in enumerate(lines)]
        timings.write_text("".join(line + "\n" for line in changed))
        report = compile()
        assert report.fallbacks == []
        slow_in_bf16.append("bf16" not in report.text)
    assert sorted(slow_in_bf16) == [False, True], "where one is slow the other runs"
