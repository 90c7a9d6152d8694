"""Arguments and results of every kind: nested, plain, missing, parts of other tensors.

Each compiled module is compared with the same module in eager Python, its inputs included.
"""

import pathlib
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

import pytest
import torch
import torchweld
from torch import nn
from torchweld._compare import flatten

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from checking import block, check, compiled_of, same


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
    assert "aten::atan (test_arguments.py:" in report.text and "aten::atan" in report.to_json()
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


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Nested(torch.nn.Module):
    def forward(
        self,
        pair: Pair,
        table: Dict[str, torch.Tensor],
        items: List[torch.Tensor],
        extra: Optional[torch.Tensor] = None,
        factor: float = 2.0,
        flag: bool = True,
    ) -> Tuple[Dict[str, torch.Tensor], List[torch.Tensor], Pair]:
        total = torch.relu(pair.left + pair.right * factor) + table["a"]
        for item in items:
            total = total + torch.sigmoid(item)
        if extra is not None:
            total = total - extra
        if flag:
            total = total * 2.0
        return {"total": total, "half": total * 0.5}, [total + 1.0, torch.tanh(total)], Pair(total.exp(), total.neg())


def nested_arguments(device):
    def t():
        return torch.randn(3, 4, device=device)

    return [Pair(t(), t()), {"a": t(), "b": t()}, [t(), t()]]


@pytest.mark.parametrize("with_extra", [False, True])
def test_nested_inputs_and_outputs(device, with_extra):
    module = torch.jit.script(Nested().eval())
    arguments = nested_arguments(device) + ([torch.randn(3, 4, device=device)] if with_extra else [])
    compiled = torchweld.compile(module, arguments)
    expected, actual = flatten(module(*arguments)), flatten(compiled(*arguments))
    assert [name for name, _ in expected] == [name for name, _ in actual]
    for (_, a), (_, b) in zip(expected, actual, strict=False):
        torch.testing.assert_close(a, b)


def test_keyword_arguments_and_defaults(device):
    module = torch.jit.script(Nested().eval())
    pair, table, items = nested_arguments(device)
    compiled = torchweld.compile(module, {"pair": pair, "table": table, "items": items})
    for extra in (dict(), dict(factor=3.0), dict(flag=False)):
        expected = flatten(module(pair=pair, table=table, items=items, **extra))
        actual = flatten(compiled(pair=pair, table=table, items=items, **extra))
        for (name, a), (_, b) in zip(expected, actual, strict=False):
            torch.testing.assert_close(a, b, msg=lambda m, name=name, extra=extra: f"{name} with {extra}: {m}")


def test_warm_up_leaves_lists_as_they_are():
    class Grows(torch.nn.Module):
        def forward(self, x, sizes: List[int]):
            sizes.append(6)
            return torch.tanh(torch.relu(x).reshape(sizes)) + 1.0

    net, x, sizes = Grows().eval(), torch.randn(2, 2, 3), [2]
    compiled = torchweld.compile(torch.jit.script(net), [x, sizes], min_block_size=1)
    torchweld.warm_up(compiled, [x, sizes])
    assert sizes == [2] and torch.equal(compiled(x, [2]), net(x, [2]))


def test_warm_up_takes_all_that_calls_take():
    class Turned(torch.nn.Module):
        def forward(self, x, by: complex, table: Dict[str, List[complex]]):
            return torch.relu(x * abs(by) + abs(table["a"][0])) + 1.0

    net, arguments = Turned().eval(), [torch.randn(2, 3), 1 + 2j, {"a": [3j]}]
    compiled = torchweld.compile(torch.jit.script(net), arguments, min_block_size=1)
    torchweld.warm_up(compiled, arguments)
    assert torch.equal(compiled(*arguments), net(*arguments))


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


def test_plan_of_compile_is_for_inputs_as_kernels_read_them():
    """An expanded tensor comes to the kernels as a dense copy, and for that the engine is planned."""

    def expanded(x):
        return block(x.expand(3, 4))

    script = torch.jit.trace(expanded, torch.randn(1, 4), check_trace=False)
    options = dict(torch_executed_ops=["aten::expand"], min_block_size=1, optimization_level=0)
    compiled = torchweld.compile(script, [torchweld.Input((1, 4))], **options)
    assert [engine.inputs for engine in torchweld.explain(compiled).engines] == [["f32[3,4]"]]
