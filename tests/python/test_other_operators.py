"""Operators of other libraries, with and without what they say of types, and functions that stay in Python."""

import pathlib
import subprocess
import sys
import warnings

import pytest
import torch
import torchweld
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from checking import check, compiled_of, operators, same


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)


def traced_with(function, x):
    class Net(Calls):
        def forward(self, x):
            return torch.relu(self.second(function(torch.relu(self.first(x)))))

    net = Net().eval()
    with torch.no_grad():
        return net, torch.jit.trace(net, x, check_trace=False)


def test_operator_of_another_library():
    vision = pytest.importorskip("torchvision")

    class Crops(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x, boxes, scores):
            y = torch.relu(self.conv(x))
            kept = vision.ops.nms(boxes, scores, 0.5)
            crops = vision.ops.roi_align(y, [boxes[kept]], [2, 2])
            return torch.sigmoid(crops) * 2.0, kept

    boxes = torch.tensor([[0.0, 0, 5, 5], [0, 0, 5, 4.9], [2, 2, 9, 9]])
    check(Crops(), (torch.randn(1, 3, 12, 12), boxes, torch.tensor([0.9, 0.8, 0.7])))


def test_operator_that_says_its_type_joins_the_engine():
    ran = []

    def triple(x):
        ran.append(tuple(x.shape))
        return x * 3.0

    with operators("triple(Tensor x) -> Tensor", triple=triple, meta_triple=torch.empty_like) as ops:
        x = torch.randn(2, 4)
        net, script = traced_with(ops.triple, x)
        ran.clear()
        compiled = compiled_of(script, [torchweld.Input((2, 4))])
        assert not ran  # nothing runs on made-up data
        report = torchweld.explain(compiled)
        assert len(report.engines) == 1 and not report.fallbacks, report.text
        same(compiled(x), net(x).detach())
        assert ran


def test_operator_that_does_not_say_its_type_stays():
    with operators("secret(Tensor x) -> Tensor", secret=lambda x: x * 3.0) as ops:
        x = torch.randn(2, 4)
        net, script = traced_with(ops.secret, x)
        compiled = compiled_of(script, [torchweld.Input((2, 4))])
        for _ in range(3):
            same(compiled(x), net(x).detach())
        report = torchweld.explain(compiled)
        assert all(f.reason for f in report.fallbacks)


def broken(x):
    raise KeyError("a bug")


def too_small(x):
    return x.new_empty(x.shape[0], 1)


def too_large(x):
    return x.new_empty(x.shape[0] * 8, x.shape[1])


def other_dtype(x):
    return x.new_empty(x.shape, dtype=torch.float64)


@pytest.mark.parametrize("wrong", [broken, too_small, too_large, other_dtype])
def test_operator_whose_import_has_a_bug(wrong):
    """It raises, or says a wrong type: compile succeeds, and results are right or LibTorch's own error."""
    with operators("odd(Tensor x) -> Tensor", odd=lambda x: x * 3.0, meta_odd=wrong) as ops:
        x = torch.randn(2, 4)
        net, script = traced_with(ops.odd, x)
        compiled = compiled_of(script, [torchweld.Input((2, 4))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                same(compiled(x), net(x).detach())


def test_operator_that_writes_or_has_side_effects():
    log = []

    def bump(x):
        x.add_(1.0)

    with operators(
        "bump(Tensor(a!) x) -> ()",
        "note(Tensor x) -> Tensor",
        bump=bump,
        note=lambda x: log.append(float(x.sum())) or x.clone(),
    ) as ops:

        class Net(Calls):
            def forward(self, x):
                y = torch.relu(self.first(x))
                ops.bump(y)
                return torch.relu(self.second(y)), ops.note(y)

        net = Net().eval()
        x = torch.randn(2, 4)
        with torch.no_grad():
            script = torch.jit.trace(net, x, check_trace=False)
            compiled = compiled_of(script, [torchweld.Input((2, 4))])
            log.clear()
            same(compiled(x), net(x))
        assert len(log) == 2 and log[0] == pytest.approx(log[1], rel=1e-5)


class Asks(Calls):
    """Goes back to Python in the middle."""

    @torch.jit.ignore
    def ask(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)

    def forward(self, x):
        return torch.relu(self.second(self.ask(torch.relu(self.first(x)))))


def test_function_that_stays_in_python():
    net = Asks().eval()
    compiled = compiled_of(torch.jit.script(net), [torchweld.Input((2, 4))])
    x = torch.randn(2, 4)
    for _ in range(3):
        same(compiled(x).detach(), net(x).detach())
    report = torchweld.explain(compiled)
    assert any("Python" in f.op or "Python" in f.reason for f in report.fallbacks), report.text


def test_operator_that_the_loading_process_lacks(tmp_path):
    """LibTorch's own message names it, from torchweld.load as from torch.jit.load."""
    path = str(tmp_path / "net.ts")
    with operators("mine(Tensor x) -> Tensor", mine=lambda x: x * 3.0, meta_mine=torch.empty_like) as ops:
        net, script = traced_with(ops.mine, torch.randn(2, 4))
        torch.jit.save(compiled_of(script, [torchweld.Input((2, 4))]), path)
        x = torch.randn(2, 4)
        same(torchweld.load(path)(x), net(x).detach())
    for load in ("torchweld.load", "torch.jit.load"):
        done = subprocess.run(
            [sys.executable, "-c", f"import torch, torchweld; {load}({path!r})"], capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        assert "Unknown builtin op: torchweld_tests::mine" in done.stderr


def test_without_optimisation_nothing_of_the_module_runs():
    calls = []

    def triple(x):
        calls.append(tuple(x.shape))
        return x * 3

    with operators("triple(Tensor x) -> Tensor", triple=triple, meta_triple=torch.empty_like) as ops:

        class Net(torch.nn.Module):
            def forward(self, x):
                return torch.relu(ops.triple(x).sin().cos())

        x = torch.randn(2, 4)
        script = torch.jit.trace(Net().eval(), x, check_trace=False)
        ran = {}
        for level in (0, 1):
            calls.clear()
            compiled = torchweld.compile(script, [torchweld.Input((2, 4))], optimization_level=level)
            assert "triple" not in str([fallback.op for fallback in torchweld.explain(compiled).fallbacks])
            ran[level] = len(calls)
        assert ran[0] == 0 < ran[1]
