"""Modules of every structure: nesting, methods, state, control flow, weights, operators of others, all callers.

Each compiled module is compared with the same module in eager Python, its inputs and attributes included.
"""

import contextlib
import copy
import gc
import subprocess
import sys
import threading
import warnings
import weakref
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

import pytest
import torch
import torchweld
from torch import nn


def compiled_of(net, inputs, **options):
    script = net if isinstance(net, torch.jit.ScriptModule) else torch.jit.script(net.eval())
    options = dict(min_block_size=1, optimization_level=0) | options
    return torchweld.compile(script, inputs, **options)


def same(actual, expected, where="output"):
    """Equal in structure, types and numbers."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor) and actual.dtype == expected.dtype, where
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, msg=lambda text: f"{where}: {text}")
    elif isinstance(expected, dict):
        assert isinstance(actual, dict) and list(actual) == list(expected), where
        for key in expected:
            same(actual[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert isinstance(actual, (list, tuple)) and len(actual) == len(expected), where
        assert isinstance(actual, tuple) == isinstance(expected, tuple), where
        assert getattr(actual, "_fields", None) == getattr(expected, "_fields", None), where
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            same(a, e, f"{where}[{i}]")
    else:
        assert type(actual) is type(expected) and actual == expected, where


def check(net, *calls, engines=1, **options):
    """Compiles for the first of `calls`; all of them, made twice, give what eager gives and leave what eager leaves."""
    net = net.eval()
    compiled = compiled_of(copy.deepcopy(net), copy.deepcopy(calls[0]), **options)
    report = torchweld.explain(compiled)
    assert len(report.engines) >= engines, report.text
    with torch.no_grad():
        for call in (*calls, *calls):
            ours, theirs = copy.deepcopy(call), copy.deepcopy(call)
            same(compiled(*ours), net(*theirs))
            same(ours, theirs, "input")
    return compiled, report


def block(x):
    return torch.relu(x * 2.0 + 1.0) - 0.5


# --- inputs and outputs -----------------------------------------------------------------------------------------------


class Point(NamedTuple):
    at: torch.Tensor
    name: str
    weight: float


class Nest(NamedTuple):
    points: List[Point]
    table: Dict[str, Tuple[torch.Tensor, Optional[torch.Tensor]]]


class Deep(nn.Module):
    def forward(self, nest: Nest, more: Dict[int, List[torch.Tensor]], none: Optional[Dict[str, torch.Tensor]] = None):
        total = torch.zeros_like(nest.points[0].at)
        for point in nest.points:
            total = total + torch.relu(point.at * point.weight)
        for key, (first, second) in nest.table.items():
            total = total + torch.sigmoid(first) * float(len(key))
            if second is not None:
                total = total - second
        for number, tensors in more.items():
            for tensor in tensors:
                total = total + tensor * float(number)
        if none is not None:
            total = total + none["extra"]
        nothing: Optional[torch.Tensor] = None
        table = {"t": (total, nothing)}
        return Nest([Point(total + 1.0, nest.points[0].name + "!", 0.5)], table), none is None


def deep_arguments():
    def t():
        return torch.randn(2, 3)

    points = [Point(t(), "a", 2.0), Point(t(), "b", -1.5)]
    return Nest(points, {"x": (t(), t()), "yy": (t(), None)}), {3: [t()], 5: [t(), t()]}


def test_four_levels_of_nesting():
    check(Deep(), deep_arguments(), deep_arguments())
    check(Deep(), (*deep_arguments(), {"extra": torch.randn(2, 3)}), (*deep_arguments(), None))


class Plain(nn.Module):
    """Every plain type, in and out."""

    def forward(self, x, n: int, f: float, b: bool, s: str, o: Optional[int] = None, size: Optional[List[int]] = None):
        y = torch.relu(x * f + n)
        if b:
            y = torch.sigmoid(y)
        if s == "flat":
            y = y.flatten()
        if size is not None:
            y = y.view(size)
        return y * 2.0, n + 1, f * 2.0, not b, s + "!", o, None, y.size(0), [n, n + 1], {"n": n}, (f, (s, b))


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("text", ["flat", "as it is"])
def test_plain_values(flag, text):
    x = torch.randn(2, 3)
    check(Plain(), (x, 2, 0.5, flag, text), (x, 3, 0.25, not flag, "flat"), (x, 2, 0.5, flag, text, 7, [3, 2]))


def test_keywords_in_any_order_and_defaults():
    x = torch.randn(2, 3)
    net = Plain().eval()
    named = dict(s="flat", x=x, b=True, f=0.5, n=2)
    for inputs in (named, [x, 2, 0.5, True, "flat"]):
        compiled = compiled_of(net, inputs)
        for call in (named, named | dict(o=4), named | dict(size=[6], b=False), dict(reversed(named.items()))):
            same(compiled(**call), net(**call))
    with pytest.raises(RuntimeError, match="missing value for argument 'n'"):
        compiled(x)


class Shapes(nn.Module):
    def forward(self, x: Union[torch.Tensor, List[torch.Tensor]]):
        tensor = x if isinstance(x, torch.Tensor) else torch.cat(x)
        return block(tensor), x


def test_union_argument():
    check(Shapes(), (torch.randn(4, 3),), (torch.randn(4, 3),))
    check(Shapes(), ([torch.randn(2, 3), torch.randn(1, 3)],), engines=0)


class NoTensors(nn.Module):
    def forward(self, n: int) -> List[int]:
        return [n, n * 2]


def test_no_tensor_at_all():
    check(NoTensors(), (3,), (4,), engines=0)


class Empty(nn.Module):
    def forward(self, items: List[torch.Tensor], table: Dict[str, torch.Tensor], x):
        for item in items:
            x = x + item
        for item in table.values():
            x = x * item
        return block(x), items, table


def test_empty_lists_and_dicts():
    x = torch.randn(3)
    check(Empty(), ([], {}, x), ([x], {"a": x}, x))


def test_zero_dimensions_and_zero_elements():
    class Both(nn.Module):
        def forward(self, x, y):
            return block(x), torch.cat([block(y), y]), x + y.sum()

    check(Both(), (torch.tensor(2.0), torch.zeros(2, 3)), (torch.tensor(-2.0), torch.ones(0, 3)))
    with pytest.raises(ValueError, match="has a dimension of size 0"):
        compiled_of(Both().eval(), [torch.tensor(2.0), torch.zeros(0, 3)])


# --- methods ----------------------------------------------------------------------------------------------------------


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.into = nn.Linear(4, 3)
        self.out = nn.Linear(3, 4)

    @torch.jit.export
    def encode(self, x):
        return torch.relu(self.into(x)) + 1.0

    @torch.jit.export
    def decode(self, z, scale: float = 1.0):
        return torch.tanh(self.out(z)) * scale

    def forward(self, x):
        return self.decode(self.encode(x), 2.0)


def test_several_methods():
    net, x = Coder().eval(), torch.randn(2, 4)
    compiled = compiled_of(net, [x], methods=("forward", "encode"))
    assert len(torchweld.explain(compiled).engines) == 2
    same(compiled(x), net(x))
    same(compiled.encode(x), net.encode(x))
    # What was not compiled is still there.
    same(compiled.decode(net.encode(x), scale=3.0), net.decode(net.encode(x), scale=3.0))
    assert "torchweld::run" in str(compiled.encode.graph) and "torchweld::run" not in str(compiled.decode.graph)


# --- state, data-dependent shells, exceptions ------------------------------------------------------------------------


class Recogniser(nn.Module):
    """An outer loop that keeps state and stops by data; heavy parts are submodules that it calls."""

    seen: List[torch.Tensor]

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.step = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        self.calls = 0
        self.register_buffer("memory", torch.zeros(8))
        self.seen = []

    def forward(self, x):
        self.calls += 1
        state = self.encoder(x).mean(0) + self.memory
        found: List[int] = []
        while len(found) < 5:
            state = self.step(state)
            best = int(state.argmax())
            found.append(best)
            if best == 0:
                break
        self.memory = state * 0.5
        self.seen.append(state)
        return found, state, self.calls, len(self.seen)


def test_stateful_data_dependent_shell():
    torch.manual_seed(3)
    net = Recogniser()
    calls = [(torch.randn(5, 4) * scale,) for scale in (1.0, 3.0, -2.0)]
    compiled, report = check(net, *calls, min_block_size=3)
    # The steps' results go to memory that the module keeps; the encoder is an engine.
    assert report.flops_in_engines > 0.7 and all(f.reason for f in report.fallbacks)
    assert compiled.calls == net.calls == 6
    same(compiled.memory, net.memory)
    same(list(compiled.seen), net.seen)


class Remembers(nn.Module):
    """Reads an attribute, sets it to what an engine gives, and reads it again, all of it by LibTorch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.ones(4))

    def forward(self, x):
        before = self.last
        self.last = x.sum(0)
        some = x[x.sum(-1) > 0.1].sum(0)
        return torch.sin(torch.exp(x[0])[:, None] + before + self.last + some)


def test_attributes_are_read_and_set_in_order():
    torch.manual_seed(5)
    net = Remembers()
    compiled, _ = check(net, *[(torch.randn(5, 4),) for _ in range(3)], min_block_size=1, optimization_level=1)
    same(compiled.last, net.last)


class UnsurePart(nn.Module):
    """Little of what could be one engine works on a tensor whose sizes depend on data."""

    def forward(self, x):
        chosen = x[x.sum(-1) > 0.1]
        x = block(x) * torch.bernoulli((x > 0.0).float())
        return block(block(x)), chosen * 2.0


def test_unsure_part_leaves_the_rest_to_an_engine():
    _, report = check(UnsurePart(), (torch.randn(5, 4),), min_block_size=3, optimization_level=1)
    unsure = [f.source for f in report.fallbacks if "sizes in its segment depend on data" in f.reason]
    assert len(unsure) == 1 and len(report.engines) == 2, report.text


class Search(Recogniser):
    """The same without state."""

    def forward(self, x):
        state = self.encoder(x).mean(0)
        found: List[int] = []
        while len(found) < 5:
            state = self.step(state)
            best = int(state.argmax())
            found.append(best)
            if best == 0:
                break
        return len(found), state


def test_loop_that_data_ends_calls_engines():
    torch.manual_seed(3)
    calls = [(torch.randn(5, 4) * scale,) for scale in (1.0, 3.0, -2.0)]
    _, report = check(Search(), *calls, min_block_size=3, engines=2)
    assert report.flops_in_engines > 0.95, report.text


class Early(nn.Module):
    def forward(self, x, stop: bool):
        x = block(x)
        if stop:
            return x, [x]
        parts = []
        for i in range(x.size(0)):
            if i == 2:
                continue
            parts.append(torch.sigmoid(x[i] * 2.0) + 1.0)
        return torch.stack(parts), parts


def test_early_return_and_list_building():
    for stop in (True, False):
        check(Early(), (torch.randn(4, 3), stop), (torch.randn(4, 3), not stop))


def test_engines_inside_bodies():
    class Body(nn.Module):
        def forward(self, x):
            while bool(x.sum() > 1.0):
                x = torch.tanh(x * 0.5) * torch.sigmoid(x) * 0.9
            return x

    _, report = check(Body(), (torch.full((3,), 4.0),), (torch.full((3,), -4.0),), (torch.full((3,), 1.0),))
    assert report.operations_in_engines >= 4


class Guarded(nn.Module):
    def forward(self, x, n: int):
        if n < 0:
            raise ValueError(f"n is {n}")
        y = block(x)
        if bool(y.isnan().any()):
            raise RuntimeError("not a number")
        assert y.size(0) < 9, "too long"
        return y[n]


def test_exceptions_keep_raising():
    compiled, _ = check(Guarded(), (torch.randn(3), 1), (torch.randn(4), 2), outside_range="build")
    for arguments, words in (
        ((torch.randn(3), -1), "n is -1"),
        ((torch.full((3,), float("nan")), 1), "not a number"),
        ((torch.randn(9), 1), "too long"),
        ((torch.randn(3), 5), "out of"),
    ):
        for _ in range(2):
            with pytest.raises((torch.jit.Error, RuntimeError, IndexError), match=words):
                compiled(*arguments)
    same(compiled(torch.ones(3), 1), torch.tensor(2.5))


def test_module_that_only_raises():
    class Refuses(nn.Module):
        def forward(self, x):
            if x.dim() == 2:
                raise ValueError("two dimensions")
            return block(x)

    compiled = compiled_of(Refuses().eval(), [torchweld.Input((2, 2))])
    with pytest.raises(torch.jit.Error, match="two dimensions"):
        compiled(torch.ones(2, 2))
    same(compiled(torch.ones(2)), block(torch.ones(2)))


# --- weights, memory --------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.layer = nn.Linear(6, 6)
        self.again = self.layer
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("table", torch.randn(4, 6))
        self.register_buffer("row", self.table[1])

    def forward(self, ids):
        x = self.again(torch.relu(self.layer(self.words(ids))))
        return self.head(x + self.row) + self.table.sum()


def test_shared_and_tied_weights(tmp_path):
    net = Tied().eval()
    compiled, report = check(net, (torch.tensor([[1, 2, 3]]),))
    assert len(report.engines) == 1 and not report.fallbacks
    assert compiled.words.weight.data_ptr() == compiled.head.weight.data_ptr()
    assert compiled.layer.weight.data_ptr() == compiled.again.weight.data_ptr()
    assert compiled.row.data_ptr() == compiled.table.data_ptr() + 6 * 4
    plain, ours = tmp_path / "plain.ts", tmp_path / "ours.ts"
    torch.jit.save(torch.jit.script(net), str(plain))
    torch.jit.save(compiled, str(ours))
    loaded = torchweld.load(ours)
    assert loaded.words.weight.data_ptr() == loaded.head.weight.data_ptr()
    ids = torch.tensor([[4, 5]])
    same(loaded(ids), net(ids))
    new = copy.deepcopy(net)
    with torch.no_grad():
        new.words.weight.mul_(3.0)
        compiled.words.weight.mul_(3.0)
    same(compiled(torch.tensor([[1, 2, 3]])).detach(), new(torch.tensor([[1, 2, 3]])).detach())


def test_weights_have_no_history_that_keeps_the_originals():
    net = two_layers()
    net[0].bias.requires_grad_(False)
    script = torch.jit.script(net)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode():
            compiled = compiled_of(script, [RANGE])
        for ours, original in zip(compiled.parameters(), net.parameters(), strict=False):
            assert ours.is_leaf and not ours.is_inference() and ours.requires_grad == original.requires_grad
            assert ours.data_ptr() != original.data_ptr() and torch.equal(ours, original)


def test_weights_are_saved_once(tmp_path):
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    plain, ours = tmp_path / "plain.ts", tmp_path / "ours.ts"
    torch.jit.save(torch.jit.script(net), str(plain))
    torch.jit.save(compiled_of(net, [torch.ones(2, 256)]), str(ours))
    assert ours.stat().st_size < plain.stat().st_size + 100_000


class Writes(nn.Module):
    def forward(self, x, y, items: List[torch.Tensor]):
        x.mul_(2.0)
        y[1:, 0] = 7.0
        y.t()[2] += x[0, 0]
        items[0].relu_()
        return block(x), y, items


def test_caller_sees_what_is_written_in_place():
    check(Writes(), (torch.randn(3, 4), torch.randn(3, 4), [torch.randn(2), torch.randn(2)]))


class Views(nn.Module):
    def forward(self, x):
        y = block(x)
        return y, y[0], y.t(), x.view(-1), x


def test_outputs_that_are_views_share_memory_as_in_eager():
    compiled, _ = check(Views(), (torch.randn(3, 4),))
    x = torch.randn(3, 4)
    whole, row, turned, flat, given = compiled(x)
    assert given is x or given.data_ptr() == x.data_ptr()
    assert flat.data_ptr() == x.data_ptr()
    whole.zero_()
    assert not row.any() and not turned.any()


def test_aliased_inputs():
    class Pair(nn.Module):
        def forward(self, x, y):
            x.add_(1.0)
            return block(y) + x

    compiled = compiled_of(Pair(), [torch.zeros(3), torch.zeros(3)])
    for _ in range(2):
        x, e = torch.ones(4)[1:], torch.ones(4)[1:]
        same(compiled(x, x), Pair()(e, e))
        same(x, e)


# --- operators of others ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def operators(*schemas, **functions):
    """Operators of a namespace for tests: CPU kernels by name, "meta_NAME" for what they say of types."""
    library = torch.library.Library("torchweld_tests", "FRAGMENT")
    try:
        for schema in schemas:
            library.define(schema)
        for name, function in functions.items():
            key = "Meta" if name.startswith("meta_") else "CPU"
            library.impl(name.removeprefix("meta_"), function, key)
        yield torch.ops.torchweld_tests
    finally:
        library._destroy()


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


# --- callers ----------------------------------------------------------------------------------------------------------


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


RANGE = torchweld.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(64, 4))


def test_threads_that_plan_new_shapes_at_once():
    net = two_layers()
    compiled = compiled_of(net, [RANGE], max_cached_plans=2)
    wrong = []

    def work(first):
        generator = torch.Generator().manual_seed(first)
        for i in range(40):
            x = torch.randn(1 + (first + i) % 7, 4, generator=generator)
            with torch.no_grad():
                if not torch.allclose(compiled(x), net(x), atol=1e-5):
                    wrong.append(x.shape)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_compile_at_once():
    nets = [two_layers() for _ in range(4)]
    results = {}

    def work(i):
        results[i] = compiled_of(nets[i], [RANGE])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    x = torch.randn(3, 4)
    for i, net in enumerate(nets):
        same(results[i](x).detach(), net(x).detach())


def test_profiler_shows_the_steps():
    net = two_layers()
    compiled = compiled_of(net, [RANGE])
    x = torch.randn(2, 4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = compiled(x)
    same(result.detach(), net(x).detach())
    names = {event.key for event in profile.key_averages()}
    assert any("torchweld" in name for name in names), names
    assert any("linear" in name for name in names), names


def test_compiling_under_the_profiler():
    net = two_layers()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        compiled = compiled_of(net, [RANGE])
    x = torch.randn(2, 4)
    same(compiled(x).detach(), net(x).detach())


class Caller(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.sigmoid(self.inner(x * 2.0)) + 1.0


def test_inside_traced_and_scripted_callers(tmp_path):
    net = two_layers()
    compiled = compiled_of(net, [RANGE])
    x, more = torch.randn(2, 4), torch.randn(5, 4)
    callers = [
        torch.jit.trace(Caller(compiled).eval(), x),
        torch.jit.script(Caller(compiled).eval()),
    ]
    for caller in callers:
        path = str(tmp_path / "caller.ts")
        torch.jit.save(caller, path)
        for module in (caller, torch.jit.load(path)):
            for inputs in (x, more):
                same(module(inputs).detach(), Caller(net)(inputs).detach())
            assert "torchweld::run" in str(module.inlined_graph)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_inside_torch_compile(backend):
    net = two_layers()
    caller = torch.compile(Caller(compiled_of(net, [RANGE])).eval(), backend=backend)
    with torch.no_grad():
        for rows in (2, 5, 2):
            x = torch.randn(rows, 4)
            same(caller(x), Caller(net)(x))


def test_compile_inside_inference_mode_and_use_outside():
    net = two_layers()
    with torch.inference_mode():
        compiled = compiled_of(net, [RANGE])
        same(compiled(torch.ones(2, 4)), net(torch.ones(2, 4)))
    x = torch.randn(3, 4)
    same(compiled(x).detach(), net(x).detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(x).shape == (3, 3)


def test_to_another_dtype_and_back():
    """An engine is planned for what its module has become."""
    net = two_layers()
    compiled = compiled_of(net, [RANGE], outside_range="build")
    x = torch.randn(2, 4)
    same(compiled.to("cpu")(x).detach(), net(x).detach())
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        compiled, net = compiled.to(dtype), net.to(dtype)
        with torch.no_grad():
            result, wanted = compiled(x.to(dtype)), net(x.to(dtype))
        assert result.dtype == dtype
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance)


def test_gradients_are_not_promised_but_do_not_break_training_code():
    net = two_layers()
    compiled = compiled_of(net, [RANGE])
    x = torch.randn(2, 4, requires_grad=True)
    assert not compiled(x).requires_grad
    scale = torch.ones(3, requires_grad=True)
    (compiled(x) * scale).sum().backward()
    same(scale.grad, net(x).sum(0).detach())


def test_nothing_is_held_after_the_module_is_gone():
    net = two_layers()
    compiled = compiled_of(net, [RANGE])
    x = torch.randn(2, 4)
    compiled(x)
    held = weakref.ref(x)
    del x
    gc.collect()
    assert held() is None


def test_ctrl_c_ends_a_compilation():
    """A second after the signal it is over, with KeyboardInterrupt, and the process goes on working."""
    program = """
import os, signal, time
import torch, torchweld
layers = []
for i in range(400):
    layers += [torch.nn.Conv2d(3, 3 + i % 5, 3, padding=1), torch.nn.Sigmoid(), torch.nn.Conv2d(3 + i % 5, 3, 1)]
net = torch.jit.script(torch.nn.Sequential(*layers).eval())
def told(what, share):
    if what.startswith("building") and not sent:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
sent = []
try:
    torchweld.compile(net, [torchweld.Input((1, 3, 64, 64))], optimization_level=5, progress=told)
    print("finished")
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - sent[0] < 5)
small = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval())
compiled = torchweld.compile(small, [torchweld.Input((2, 4))], min_block_size=1)
print(torch.allclose(compiled(torch.ones(2, 4)), small(torch.ones(2, 4)), atol=1e-6))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["interrupted", "True", "True"], done.stdout + done.stderr
