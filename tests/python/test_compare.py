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
