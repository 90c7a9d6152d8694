"""compare(): the float64 reference, and that it tells a wrong module from a right one."""

import copy

import pytest
import torch
import torchweld


class Float32ByName(torch.nn.Module):
    """Float32 where a module's `to` does not reach: constants, plain attributes, tensors made and casts asked for."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.row = torch.rand(8)

    def forward(self, x):
        y = self.linear(x) + self.row
        weight = torch.eye(8)
        for i in range(3):
            weight = weight + torch.full([8, 8], 0.125 * i, dtype=torch.float32)
        return torch.nn.functional.linear(y, weight, torch.tensor([0.25] * 8)), x.to(torch.float32).exp()


class OwnRow(torch.nn.Module):
    """Writes a tensor of its own by a view of it, and reads it."""

    def __init__(self):
        super().__init__()
        self.row = torch.zeros(8)

    def forward(self, x):
        self.row.view(2, 4).add_(x[0].view(2, 4))
        y = x / 3 + self.row
        self.row.zero_()
        return y


def as_traced(net):
    return torch.jit.trace(net, torch.rand(2, 8), check_trace=False)


def compared(net, compiled_from, x):
    """`net` beside what is compiled from a copy of the second."""
    return torchweld.compare(net, torchweld.compile(copy.deepcopy(compiled_from), [x], min_block_size=1), [x])


@pytest.mark.parametrize(
    "kind, form",
    [
        (Float32ByName, copy.deepcopy),
        (Float32ByName, torch.jit.script),
        (Float32ByName, as_traced),
        (OwnRow, copy.deepcopy),
        (OwnRow, torch.jit.script),
    ],
)
def test_reference_is_float64_where_the_module_says_float32(kind, form):
    net, x = form(kind().eval()), torch.rand(2, 8)
    found = compared(net, net, x)
    assert found.reference == "float64"
    assert found.passes and all(0 < output.eager_error < 1e-5 for output in found.outputs), found.text


@pytest.mark.parametrize("runs_before", [0, 3])
def test_the_original_stays_as_it_is(runs_before):
    net, x = torch.jit.script(Float32ByName().eval()), torch.rand(2, 8)
    for _ in range(runs_before):
        copy.deepcopy(net)(x)
    compared(copy.deepcopy(net), net, x)
    for _ in range(3):
        assert [y.dtype for y in copy.deepcopy(net)(x)] == [torch.float32, torch.float32]


class Sums(torch.nn.Module):
    def __init__(self, error, refuses_float64):
        super().__init__()
        self.error = error
        self.refuses_float64 = refuses_float64

    def forward(self, x):
        if self.refuses_float64 and x.dtype == torch.float64:
            raise RuntimeError("float32 only")
        return x.exp().sum(-1) + self.error


@pytest.mark.parametrize("refuses, reference", [(False, "float64"), (True, "the original")])
def test_what_is_off_does_not_pass(refuses, reference):
    x = torch.rand(4, 100)
    for error, passes in ((0.0, True), (0.1, False)):
        found = compared(Sums(0.0, refuses), torch.jit.script(Sums(error, refuses)), x)
        assert (found.reference, found.passes) == (reference, passes), found.text


class Kept(torch.nn.Module):
    """What is larger than 0 after a rounding."""

    def __init__(self, extra=0, error=0.0):
        super().__init__()
        self.extra = extra
        self.error = error

    def forward(self, x):
        y = x + 1.0 / 3.0
        return y[y > 1.0 / 3.0][self.extra :] + self.error


def test_a_result_of_another_shape():
    x = torch.tensor([1.0, 2e-9, 2.0])  # in float32 the second is not kept
    found = compared(Kept(), torch.jit.script(Kept()), x)
    (output,) = found.outputs
    assert found.passes and "float64 gives [3] and the original [2]" in output.difference and output.ratio == 0, (
        found.text
    )
    assert not compared(Kept(), torch.jit.script(Kept(error=0.1)), x).passes
    other = compared(Kept(), torch.jit.script(Kept(1)), x)
    assert not other.passes and "gives [1] and the original [2]" in other.text


class InDouble(torch.nn.Module):
    def forward(self, x):
        return x.double()


def test_a_result_of_another_dtype():
    found = compared(torch.nn.Identity(), torch.jit.script(InDouble()), torch.ones(3))
    assert not found.passes and "gives torch.float64 and the original torch.float32" in found.text


class Overflowing(torch.nn.Module):
    """Infinite in float32, and not in float64; `instead` is given in its place."""

    def __init__(self, instead=None):
        super().__init__()
        self.instead: float = float("inf") if instead is None else instead

    def forward(self, x):
        y = x * 1e38
        return torch.where(y.isinf(), torch.full_like(y, self.instead), y * 1e-38)


@pytest.mark.parametrize("instead, passes", [(None, True), (float("-inf"), False), (7.0, False)])
def test_elements_that_are_infinite_in_the_original(instead, passes):
    found = compared(Overflowing(), torch.jit.script(Overflowing(instead)), torch.tensor([0.5, 100.0]))
    assert found.passes == passes and found.outputs[0].allowed < 1, found.text


def test_reduced_precision_of_a_module_that_says_float32():
    net, x = Float32ByName().eval(), torch.rand(2, 8)
    compiled = torchweld.compile(torch.jit.script(net), [x], min_block_size=1)
    found = torchweld.compare(net, compiled, [x], precision=torch.half)
    assert found.passes and all(output.eager_error > 1e-5 for output in found.outputs), found.text
    with pytest.raises(ValueError, match="cannot run in torch.float16.*float32 only"):
        torchweld.compare(OnlyFloat32(), compiled, [x], precision=torch.half)


class OnlyFloat32(torch.nn.Module):
    def forward(self, x):
        if x.dtype == torch.half:
            raise RuntimeError("float32 only")
        return x, x


def to_tf32(x):  # on the bits: half a unit is added, what is below a unit goes
    bits = x.view(torch.int32)
    half = 0xFFF + (bits >> 13 & 1)  # ties to even
    return ((bits + half) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("scripted", [False, True])
def test_tf32_rounds_the_operands_of_products_and_nothing_else(scripted):
    from torchweld._compare import _run_in_tf32

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16, 5))
    net, x = net.eval(), torch.randn(2, 3, 4, 4)
    rounded = copy.deepcopy(net)

    for layer in (rounded[0], rounded[3]):
        layer.weight.data = to_tf32(layer.weight.data)
    with torch.no_grad():
        expected = rounded[3](to_tf32(rounded[2](rounded[1](rounded[0](to_tf32(x))))))
        actual = _run_in_tf32(torch.jit.script(net) if scripted else net, [x], {})
        assert (actual - net(x)).abs().max() > 1e-5
    assert torch.allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_tf32_rounds_the_operands_of_attention():
    from torchweld._compare import _run_in_tf32

    attention = torch.nn.functional.scaled_dot_product_attention
    qkv = torch.randn(3, 1, 2, 5, 8)
    actual = _run_in_tf32(attention, qkv, {})
    assert torch.equal(actual, attention(*to_tf32(qkv)))
    assert not torch.equal(actual, attention(*qkv))
