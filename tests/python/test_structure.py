"""Modules of every structure: nesting, methods, control flow, weights.

Each compiled module is compared with the same module in eager Python, its inputs and attributes included.
"""

import copy
import pathlib
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

import pytest
import torch
import torchweld
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from checking import RANGE, block, check, compiled_of, same, two_layers

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


class Divided(nn.Module):
    def forward(self, x, by: float, each: List[float], pair: Tuple[float, str], some: List[Optional[float]]):
        first = some[0]
        assert first is not None
        x = x + 0.5
        return torch.stack([torch.relu(x) / by, torch.sigmoid(x) / each[0], torch.exp(x) / pair[0], x * x / first])


@pytest.mark.parametrize("first", [0.0, -0.0, 1e-310, float("inf"), float("nan")])
def test_numbers_that_are_equal_and_not_the_same(first, tmp_path):
    def arguments(by, of_lists):
        return x, by, [of_lists], (of_lists, "by"), [of_lists, None]

    x, net = torch.tensor([2.0, -1.0]), Divided().eval()
    compiled = compiled_of(net, list(arguments(first, first)))
    path = str(tmp_path / "net.ts")
    torch.jit.save(compiled, path)
    for module in (compiled, torchweld.load(path)):
        (engine,) = torchweld.explain(module).engines
        assert engine.steps, "planned at compile"
        for by in (0.0, -0.0, float("nan")):
            for of_lists in (0.0, -0.0):
                call = arguments(by, of_lists)
                for _ in range(3):
                    torch.testing.assert_close(module(*call), net(*call), equal_nan=True)


class Remembers(nn.Module):
    """A state that a caller may leave out, as a tuple: a segment cannot be given one."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(4, 4)

    def forward(self, x, state: Optional[Tuple[torch.Tensor, torch.Tensor]] = None):
        if state is None:
            state = (torch.zeros(1, 2, 4), torch.ones(1, 2, 4) * x.mean())
        y, state = self.layer(x, state)
        return torch.sigmoid(y * state[0].clone()) + 1.0, state


def test_a_state_that_may_be_left_out():
    x, state = torch.randn(3, 2, 4), (torch.randn(1, 2, 4), torch.randn(1, 2, 4))
    check(Remembers(), (x,), (x, state))
    check(Remembers(), (x, None), (x, state))
    check(Remembers(), (x, state), (x,))


class MayLack(nn.Module):
    """A list and a tuple of tensors that may be missing: no plain values."""

    def forward(self, x, more: List[Optional[torch.Tensor]], pair: Tuple[Optional[torch.Tensor], int]):
        y = torch.relu(x) + 1.0
        scale, shift = more[0], pair[0]
        if scale is not None:
            y = y * scale
        if shift is not None:
            y = y + shift
        return torch.sigmoid(y) * 2.0


@pytest.mark.parametrize("has_scale", [True, False])
def test_lists_of_tensors_that_may_be_missing(has_scale):
    def t():
        return torch.randn(2, 3)

    check(
        MayLack(), (t(), [t() if has_scale else None], (None, 1)), (t(), [t()], (t(), 2)), (t(), [None, t()], (None, 3))
    )


def test_branches_that_are_not_taken_are_reported():
    class Masked(nn.Module):
        def forward(self, x, sizes: List[int], mask: Optional[torch.Tensor] = None):
            x = torch.sigmoid(torch.tanh(x)) * 2.0
            sizes.append(1)  # the caller's, which a segment cannot change
            if mask is not None:
                x = torch.atan(x + mask)
            return torch.relu(x.reshape(sizes)) * 2.0 - 1.0

    x, net = torch.randn(2, 3), Masked().eval()
    compiled = compiled_of(net, [x, [6]])
    for mask in (None, torch.randn(3)):
        same(compiled(x, [3, 2], mask), net(x, [3, 2], mask))
    assert "aten::atan" in str(compiled.graph)
    report = torchweld.explain(compiled)
    assert [f.op for f in report.unreached] == ["aten::add.Tensor", "aten::atan"]
    assert "aten::atan (test_structure.py:" in report.text and "aten::atan" in report.to_json()
    assert report.operations == 6 + 1, "reshape stays"
    full = compiled_of(Remembers(), [torch.randn(3, 2, 4)], require_full_compilation=True)
    assert torchweld.explain(full).unreached


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


# --- state, data-dependent shells, exceptions -------------------------------------------------------------------------


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

    def search(self, state):
        found: List[int] = []
        while len(found) < 5:
            state = self.step(state)
            best = int(state.argmax())
            found.append(best)
            if best == 0:
                break
        return found, state

    def forward(self, x):
        self.calls += 1
        found, state = self.search(self.encoder(x).mean(0) + self.memory)
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


class UnsurePart(nn.Module):
    """Little of what could be one engine works on a tensor whose sizes depend on data."""

    def forward(self, x):
        chosen = x[x.sum(-1) > 0.1]
        x = block(x) * torch.bernoulli((x > 0.0).float())
        return block(block(x)), chosen * 2.0


class NamedInABranch(nn.Module):
    def forward(self, x, more: bool):
        y = block(x)
        if more:
            y = torch.tanh(y)
        return y


def test_entry_names_what_only_other_calls_reach():
    compiled, report = check(NamedInABranch(), (torch.randn(3), False), torch_executed_ops=["aten::tanh"])
    compiled(torch.randn(3), True)
    assert not any("tanh" in step.op for e in torchweld.explain(compiled).engines for step in e.steps)
    assert "aten::tanh" not in str(compiled.segment_0.graph), report.text


def test_unsure_part_leaves_the_rest_to_an_engine():
    _, report = check(UnsurePart(), (torch.randn(5, 4),), min_block_size=3, optimization_level=1)
    unsure = [f.source for f in report.fallbacks if "sizes in its segment depend on data" in f.reason]
    assert len(unsure) == 1 and len(report.engines) == 2, report.text


class Search(Recogniser):
    """The same without state."""

    def forward(self, x):
        found, state = self.search(self.encoder(x).mean(0))
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


class Windows(nn.Module):
    """What follows from where numbers lie in memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = torch.relu(self.layer(x.transpose(0, 1)[:4, :4]))
        x = torch.relu(x)
        return torch.as_strided(x, [2, 2], [1, 2]) * torch.as_strided(y, [2, 2], [2, 1])


class Strides(nn.Module):
    def forward(self, x):
        return torch.relu(x) * x.stride(0) + x.storage_offset()


@pytest.mark.parametrize("net", [Windows(), Strides()])
def test_tensors_that_are_parts_of_others(net):
    base = torch.randn(8, 8)
    parts = (base[:4, :4], base[4:, 4:], base[::2, ::2], base[:4], base[4:], base[:4, :4].t(), base[:4, :4].clone())
    for part in parts:
        check(net, (part,), *((other,) for other in parts), outside_range="build")


@pytest.mark.parametrize("turned", [False, True])
def test_plans_of_compile_are_for_parts_of_tensors_too(turned):
    base = torch.randn(8, 8)
    part = base[:4, ::2].t() if turned else base[:4, ::2]
    net = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    compiled = compiled_of(net.eval(), [torchweld.Input.from_tensor(part)])
    (engine,) = torchweld.explain(compiled).engines
    assert engine.inputs == ["f32[4,4]{1,4}" if turned else "f32[4,4]"], "as part.clone() is"
    same(compiled(part), net(part))


class Draws(nn.Module):
    """Random numbers, of which some need an engine's result and some none."""

    def __init__(self, seeds: bool):
        super().__init__()
        self.seeds = seeds

    def forward(self, x):
        if self.seeds:
            torch.manual_seed(x.size(0))
        y = torch.bernoulli(torch.sigmoid(x * 2.0 + 1.0))
        return y + torch.rand(3), torch.relu(torch.rand(3) * 2.0 - 1.0) + y


@pytest.mark.parametrize("seeds", [True, False])
def test_random_numbers_come_in_their_order(seeds):
    x, net = torch.randn(2, 3), Draws(seeds).eval()
    compiled = compiled_of(net, [x])
    for _ in range(3):
        torch.manual_seed(1)
        wanted = net(x)
        torch.manual_seed(7 if seeds else 1)
        same(compiled(x), wanted)


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


# --- devices ----------------------------------------------------------------------------------------------------------


class Elsewhere(nn.Module):
    """Boxes from the sizes of features, made on another device in a list, as the anchors of SSD are; and a number."""

    def __init__(self, where: str):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.where = where

    def forward(self, x):
        y = torch.relu(self.conv(x)) * 2.0 - 1.0
        rows: List[torch.Tensor] = []
        for i in range(y.size(2)):
            rows.append(torch.arange(y.size(3), device=self.where) + i)
        boxes = torch.cat(rows)
        count = torch.zeros([], device=self.where)
        for _ in range(3):
            count += 1
        return torch.sigmoid(y) + y.tanh() + boxes.size(0), boxes, boxes[2:], count


def test_tensors_made_on_another_device(device):
    where = "meta" if device == "cpu" else "cpu"
    net, x = Elsewhere(where).eval().to(device), torch.randn(1, 3, 8, 8, device=device)
    compiled = compiled_of(net, [x])
    report = torchweld.explain(compiled)
    assert report.engines and report.flops_in_engines == 1, report.text
    with torch.no_grad():
        (ours, *made), (theirs, *expected) = compiled(x), net(x)
    same(ours, theirs)
    assert [(t.device, t.dtype, t.shape) for t in made] == [(t.device, t.dtype, t.shape) for t in expected]
    if device != "cpu":
        same(made, expected)


def test_plan_of_compile_is_for_inputs_as_kernels_read_them():
    """An expanded tensor comes to the kernels as a dense copy, and for that the engine is planned."""

    def expanded(x):
        return block(x.expand(3, 4))

    script = torch.jit.trace(expanded, torch.randn(1, 4), check_trace=False)
    options = dict(torch_executed_ops=["aten::expand"], min_block_size=1, optimization_level=0)
    compiled = torchweld.compile(script, [torchweld.Input((1, 4))], **options)
    assert [engine.inputs for engine in torchweld.explain(compiled).engines] == [["f32[3,4]"]]
