"""Modules with state: attributes, lists, dicts and buffers that they or their caller change between calls.

Each compiled module is compared with the same module in eager Python, its attributes included.
"""

import copy
import pathlib
import sys
import warnings
from typing import Dict, List

import torch
import torchweld
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from checking import block, check, compiled_of, same


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


class ReadsWhenTold(nn.Module):
    """Reads what it writes in a branch that the call at compile does not take."""

    sums: Dict[str, torch.Tensor]

    def __init__(self):
        super().__init__()
        self.sums = {}
        self.calls = 0
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x, key: str, more: bool):
        y = block(x)
        if key in self.sums:
            y = y + self.sums[key]
        if more:
            for _ in range(2):
                y = y * self.mean + self.calls
        self.sums[key] = y
        self.calls += 1
        self.mean.add_(1.0)
        return y


def test_state_that_is_read_in_some_calls_only():
    x = torch.randn(3)
    check(ReadsWhenTold(), (x, "a", False), (x, "a", True), (x, "b", True), (x, "a", False))


class Tables(nn.Module):
    """Lists and a dict that another method, and a part's, changes."""

    sizes: List[int]
    table: Dict[str, float]
    tensors: List[torch.Tensor]

    def __init__(self, part=None):
        super().__init__()
        self.sizes = [1, 2]
        self.table = {"a": 1.0}
        self.tensors = [torch.ones(3)]
        self.part = nn.Identity() if part is None else part

    def forward(self, x):
        y = block(self.part(x)) * sum(self.sizes) + self.table["a"]
        for tensor in self.tensors:
            y = y * tensor
        return y

    @torch.jit.export
    def put(self, n: int):
        self.sizes.append(n)
        put_first(self.tensors, n)
        self.table["a"] = float(n)


class Adder(nn.Module):
    """Changes a list that it is given."""

    def forward(self, numbers: List[int], n: int):
        numbers.append(n)


class TablesOfOthers(nn.Module):
    """Lists that a module's method changes: one through a call of a part, one inside a tuple."""

    def __init__(self):
        super().__init__()
        self.adder = Adder()
        self.sizes = [1, 2]
        self.pair = ([1, 2], 3)

    def forward(self, x):
        return block(x) * sum(self.sizes) + sum(self.pair[0])

    @torch.jit.export
    def put(self, n: int):
        self.adder(self.sizes, n)
        self.pair[0].append(n)


def put_first(tensors: List[torch.Tensor], n: int):
    tensors[0] = torch.full((3,), float(n))


def test_lists_that_another_method_changes():
    net = torch.jit.script(Tables(Tables()).eval())
    compiled, x = compiled_of(copy.deepcopy(net), [torch.ones(3)]), torch.randn(3)
    for change in (lambda m: None, lambda m: m.put(3), lambda m: m.part.put(5)):
        change(net), change(compiled)
        for _ in range(2):
            same(compiled(x), net(x))


def test_lists_that_a_part_or_a_tuple_changes():
    net = torch.jit.script(TablesOfOthers().eval())
    compiled, x = compiled_of(copy.deepcopy(net), [torch.ones(3)]), torch.randn(3)
    for n in (3, 5):
        same(compiled(x), net(x))
        net.put(n), compiled.put(n)
        same(compiled(x), net(x))


class WrittenInPlace(nn.Module):
    """A streaming net whose state is only written in place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3)
        self.out = nn.Conv1d(8, 4, 1)
        self.register_buffer("state", torch.zeros(1, 4, 2))

    def forward(self, x):
        y = torch.cat([self.state, x], 2)
        self.state.copy_(y[:, :, -2:])
        return torch.relu(self.out(torch.relu(self.conv(y))))

    @torch.jit.export
    def reset(self):
        self.state.zero_()


class WrittenCaches(nn.Module):
    """Attention over what earlier calls have written."""

    def __init__(self):
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)
        self.register_buffer("keys", torch.zeros(1, 6, 8))
        self.register_buffer("values", torch.zeros(1, 6, 8))

    def forward(self, x, at: int):
        k, v = self.kv(x).chunk(2, 2)
        self.keys[:, at : at + 1] = k
        self.values[:, at : at + 1] = v
        weights = torch.softmax(self.q(x) @ self.keys.transpose(1, 2), -1)
        return torch.relu(self.out(weights @ self.values)) + x


def test_state_that_is_only_written_in_place():
    torch.manual_seed(0)
    net = torch.jit.script(WrittenInPlace().eval())
    compiled = compiled_of(copy.deepcopy(net), [torch.randn(1, 4, 5)])
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and report.flops_in_engines > 0.9, report.text
    with torch.no_grad():
        for i in range(5):
            if i == 3:
                net.reset(), compiled.reset()
            x = torch.randn(1, 4, 5)
            same(compiled(x), net(x))
            same(compiled.state, net.state)
    compiled.state, net.state = torch.zeros(2, 4, 2), torch.zeros(2, 4, 2)  # another shape, by the caller's hand
    x = torch.randn(2, 4, 5)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same(compiled(x), net(x))


def test_caches_that_are_written_in_place():
    torch.manual_seed(0)
    net = torch.jit.script(WrittenCaches().eval())
    compiled = compiled_of(copy.deepcopy(net), (torch.randn(1, 1, 8), 0))
    report = torchweld.explain(compiled)
    assert report.flops_in_engines > 0.95, report.text
    with torch.no_grad():
        for at in (0, 1, 2, 1):
            x = torch.randn(1, 1, 8)
            same(compiled(x, at), net(x, at))
            same(compiled.keys, net.keys)


def no_larger(sizes: List[int], most: List[int]):
    for i in range(len(most)):
        if sizes[i] > most[i]:
            sizes[i] = most[i]
    return sizes, most


class ChangedCopies(nn.Module):
    """As the windows of Swin3D: a list of the module is copied, and the copy is changed and put into a tuple."""

    def __init__(self):
        super().__init__()
        self.sizes = [2, 9]

    def forward(self, x):
        sizes, most = no_larger(self.sizes.copy(), [x.shape[0], x.shape[1]])
        return block(x)[: sizes[0], : sizes[1]]


def test_lists_whose_copies_are_changed():
    _, report = check(ChangedCopies(), (torch.randn(3, 4),))
    assert not report.fallbacks, report.text
