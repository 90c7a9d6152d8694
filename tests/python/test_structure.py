"""Modules of every structure: methods, control flow, state, weights.

Each compiled module is compared with the same module in eager Python, its inputs and attributes included.
"""

import copy
import pathlib
import sys
from typing import List

import pytest
import torch
import torchweld
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from checking import RANGE, block, check, compiled_of, same, two_layers

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
