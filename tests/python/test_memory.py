"""Writes in place, and who shares memory with whom: results and inputs are eager's, also after a later write."""

import pytest
import torch
import torchweld
from torch import Tensor


def attention_with_shortcut(x: Tensor, y: Tensor):
    """As in MViT: both products are added to behind a first row and column."""
    scores = torch.matmul(x, y.transpose(0, 1))
    scores[:, 1:] += (x[:, :1] * 2.0).view(-1, 1)
    out = torch.matmul(torch.softmax(scores, -1), y)
    out[1:, :] += x[1:, :]
    return out.transpose(0, 1).reshape(-1)


def views_of_views(x: Tensor, y: Tensor):
    base = x * 2.0
    turned = base.t()
    corner = turned[1:, 1:]
    row = corner[0]
    row.add_(1.0)
    base[0].mul_(0.5)
    corner.relu_()
    return base, turned, corner, row


def every_second(x: Tensor, y: Tensor):
    base = torch.zeros_like(x) + y
    base[:, ::2] = torch.sin(x[:, ::2])
    base[:, 1::2] = torch.cos(x[:, 1::2])
    return base


def written_in_a_loop(x: Tensor, y: Tensor):
    base = x + y
    for i in range(3):
        base[i] += base[i].sum()
    return base, base[1]


def written_row_by_row(x: Tensor, y: Tensor):
    base = torch.zeros(64, 4, dtype=x.dtype, device=x.device) + y[0]
    flat = base.view(-1)
    turned = base.t()
    for i in range(base.size(0)):
        base[i] = x[i % 4] * float(i)
        flat[4 * i] = 1.0
        turned[1, i] += 2.0
    return base, flat


def maybe_a_view(x: Tensor, y: Tensor):
    """Strides decide whether reshape copies: it does not here, and does in the second case."""
    base = x * 2.0
    flat = base.reshape(-1)
    other = base.t().reshape(-1)
    flat.add_(1.0)
    other.add_(1.0)
    return base, flat, other


def repeated_elements(x: Tensor, y: Tensor):
    base = (x * 2.0)[:1]
    wide = base.expand(3, 4)
    base.add_(y[:1])
    return base, wide


ONE_ENGINE = [
    attention_with_shortcut,
    views_of_views,
    every_second,
    written_in_a_loop,
    written_row_by_row,
    repeated_elements,
]


@pytest.mark.parametrize("function", [*ONE_ENGINE, maybe_a_view])
def test_writes_through_views(function, device):
    script = torch.jit.script(function)
    inputs = [torch.randn(4, 4, device=device), torch.randn(4, 4, device=device)]
    kept = [x.clone() for x in inputs]
    compiled = torchweld.compile(script, inputs, min_block_size=1, disable_tf32=True)
    report = torchweld.explain(compiled)
    if function in ONE_ENGINE:
        assert len(report.engines) == 1 and not report.fallbacks, report.text
    expected, results = function(*inputs), compiled(*inputs)
    torch.testing.assert_close(results, expected)
    torch.testing.assert_close(inputs, kept)


def test_list_and_tensor_in_one_result(device):
    """A list that is changed does not make LibTorch keep the tensors that are returned beside it."""

    @torch.jit.script
    def rows_and_total(x: Tensor, y: Tensor):
        rows = [x]
        total = torch.tanh(x + y)
        for _ in range(2):
            rows.append(y)
        return (rows, total * 2.0), total

    inputs = [torch.randn(4, 4, device=device), torch.randn(4, 4, device=device)]
    compiled = torchweld.compile(rows_and_total, inputs, min_block_size=1)
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and not report.fallbacks, report.text
    torch.testing.assert_close(compiled(*inputs), rows_and_total(*inputs))


def rows_of_a_new_tensor(x: Tensor, y: Tensor):
    out = torch.zeros(x.size(0), x.size(1), dtype=x.dtype, device=x.device)
    out[0] = y[0]
    out[:, 1:3] = torch.sin(x[:, 1:3])
    return out


def filled_in_a_loop(x: Tensor, y: Tensor):
    state = x.new_zeros([x.size(0), 4])
    out = torch.empty(3, x.size(0), 4, dtype=x.dtype, device=x.device)
    for i in range(3):
        state = torch.tanh(x + state)
        out[i] = state
        out[i, :, 0] += float(i)
    return out, state


def written_by_a_mask(x: Tensor, y: Tensor):
    kept = x.clone()
    kept[y > 0] = 0.0
    marks = torch.zeros_like(x)
    marks[x > y] = 2.0
    marks.masked_fill_(y > 0.5, 1.5)
    return kept, marks


def known_first(x: Tensor, y: Tensor):
    """Writes of known numbers happen at compile time, the others in the engine; constants stay what they were."""
    out = torch.zeros_like(x)
    before = x + out
    out[:, 2:] = 3.0
    out += 1.0
    between = x + out
    out[1] = x[1]
    return before, between, out


def several_views(x: Tensor, y: Tensor):
    out = torch.zeros_like(x)
    flat, turned, row = out.view(-1), out.t(), out[1]
    left, right = out.chunk(2, 1)
    flat[:3] = y[0, :3]
    left.add_(y[:, :2])
    turned[3] *= x[:, 0]
    return out, flat, turned, row, right


def views_in_containers(x: Tensor, y: Tensor):
    out = torch.zeros_like(x)
    rows = [out[0], out[1]]
    parts = {"first": (x + 1.0).chunk(2, 1), "second": out.split(1, 1)}
    pair = (out[2], rows)
    pair[1][0].copy_(x[0])
    parts["first"][1].mul_(2.0)
    parts["second"][3].add_(y[:, :1])
    for i, row in enumerate(out.unbind(0)):
        row.add_(float(i))
    return out, torch.stack(rows) + pair[0], parts["first"][1]


def view_of_another_iteration(x: Tensor, y: Tensor):
    out = torch.zeros_like(x)
    row = out[3]
    for i in range(3):
        row.copy_(x[i])
        row = out[i]
    return out, row


def number_of_its_own(x: Tensor, y: Tensor):
    number = torch.ones([], dtype=x.dtype, device=x.device)
    both = torch.stack([x.sum(), number])
    number += 1.0
    number *= y.sum()
    return both, number


def filled_and_written(x: Tensor, y: Tensor):
    out = torch.ones_like(x)
    out *= x
    out[0] += 1.0
    copy = torch.empty_like(x).copy_(y)
    copy[0].zero_()
    same = (x * 2.0).zero_()
    whole = same[:]
    whole[1] = y[1]
    return out, copy, same


CREATED = [
    rows_of_a_new_tensor,
    filled_in_a_loop,
    written_by_a_mask,
    known_first,
    several_views,
    views_in_containers,
    view_of_another_iteration,
    number_of_its_own,
    filled_and_written,
]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", CREATED)
def test_new_tensors_are_filled_in_engines(function, dynamic, device):
    def inputs(rows):
        return [torch.randn(rows, 4, device=device), torch.randn(rows, 4, device=device)]

    specification = inputs(5)
    if dynamic:
        specification = [torchweld.Input(min_shape=(4, 4), opt_shape=(5, 4), max_shape=(8, 4))] * 2
    options = dict(min_block_size=1, optimization_level=1, disable_tf32=True, device=device)
    compiled = torchweld.compile(torch.jit.script(function), specification, **options)
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and not report.fallbacks, report.text
    for rows in (4, 7) if dynamic else (5,):
        given = inputs(rows)
        kept = [x.clone() for x in given]
        torch.testing.assert_close(compiled(*given), function(*given))
        torch.testing.assert_close(given, kept)


def view_whose_origin_has_other_sizes_now(x: Tensor, y: Tensor):
    out = torch.zeros(4, dtype=x.dtype, device=x.device)
    tail = out[1:]
    out.unsqueeze_(0)
    tail.add_(x[0, 1:])
    return out + x, tail


def view_of_an_iteration_that_was_left_out(x: Tensor, y: Tensor):
    out = torch.zeros_like(x)
    row = out[3]
    for i in range(3):
        if i == 1:
            row = out[i]
        if i == 2:
            row.copy_(x[i])
    out[0] += 1.0
    return out, row


@pytest.mark.parametrize("function", [view_whose_origin_has_other_sizes_now, view_of_an_iteration_that_was_left_out])
def test_views_that_cannot_be_taken_again(function, device):
    x, y = torch.randn(5, 4, device=device), torch.randn(5, 4, device=device)
    compiled = torchweld.compile(torch.jit.script(function), [x, y], min_block_size=1)
    torch.testing.assert_close(compiled(x, y), function(x, y))
    reasons = [fallback.reason for fallback in torchweld.explain(compiled).fallbacks]
    assert "writes in place to a tensor that another tensor or a list shares memory with" in reasons
    assert not any("input" in reason for reason in reasons), reasons  # nothing here writes into one


def single_rows(x: Tensor, y: Tensor):
    total = x[:1].sum(0)
    x.mul_(0.5)
    return total


def maximum_of_one_row(x: Tensor, y: Tensor):
    for _ in range(y.size(0) // 2):
        x = torch.matmul(x, y.t())[:1]
    maximum = x.amax(0)
    x.clamp_(-0.1, 0.1)
    maximum *= 0.5
    kept = [x]
    return maximum, kept[0]


def cat_of_one(x: Tensor, y: Tensor):
    a = torch.exp(x)
    return a, torch.cat([a])


def repeat_once(x: Tensor, y: Tensor):
    same = x.repeat(1, 1)
    x.mul_(0.5)
    return same


def two_equal_results(x: Tensor, y: Tensor):
    a = torch.exp(x)
    b = torch.exp(x)
    return a, b


def copied_through_a_slice(x: Tensor, y: Tensor):
    result = x + 1.0
    result[:] = x
    return result


def copied_through_a_permute(x: Tensor, y: Tensor):
    result = x + 1.0
    turned = result.t()
    turned.copy_(x.t())
    return result


def copied_from_another_result(x: Tensor, y: Tensor):
    a = x + 1.0
    b = torch.exp(x)
    a.view(-1).copy_(b.view(-1))
    return a, b


NEW_MEMORY = [
    single_rows,
    maximum_of_one_row,
    cat_of_one,
    repeat_once,
    two_equal_results,
    copied_through_a_slice,
    copied_through_a_permute,
    copied_from_another_result,
]


@pytest.mark.parametrize("function", NEW_MEMORY)
def test_new_memory_stays_new(function, device):
    """What an operator makes new shares no memory with its argument, even where nothing has to be computed."""
    script = torch.jit.script(function)
    example = [torch.randn(2, 4, device=device), torch.randn(2, 4, device=device)]
    compiled = torchweld.compile(script, [x.clone() for x in example], min_block_size=1)
    assert torchweld.explain(compiled).engines
    ours, theirs = [x.clone() for x in example], [x.clone() for x in example]
    results, expected = compiled(*ours), function(*theirs)
    torch.testing.assert_close(results, expected)
    torch.testing.assert_close(ours, theirs)
    first = results[0] if isinstance(results, tuple) else results
    first.zero_()
    torch.testing.assert_close(ours, theirs)
    if isinstance(results, tuple):
        torch.testing.assert_close(results[1], expected[1])


def laid_out_as_before(x: Tensor, y: Tensor):
    a = x + 1.0
    a.copy_(y.t())
    b = x * 2.0
    b[:] = y.t()
    c = (x * 3.0).t()
    c.view_as(c).copy_(y)
    d = x.expand(3, 4, 4).clone()
    d[0] = y
    return a, b, c, d


def test_written_tensors_keep_their_strides(device):
    x = torch.randn(4, 4, device=device)
    y = torch.randn(4, 4, device=device)
    compiled = torchweld.compile(torch.jit.script(laid_out_as_before), [x, y], min_block_size=1)
    assert torchweld.explain(compiled).engines
    results, expected = compiled(x, y), laid_out_as_before(x, y)
    torch.testing.assert_close(results, expected)
    assert [r.stride() for r in results] == [e.stride() for e in expected]


def test_write_stays_with_what_is_written(device):
    """LibTorch makes the stack, for what is in it may share memory with x, which is written; so it writes to it too."""

    @torch.jit.script
    def part_of_a_stack(x: Tensor, y: Tensor):
        both = torch.stack([y, y])
        x.zero_()
        both[0] = 0.25
        return both

    inputs = [torch.randn(2, 4, device=device), torch.randn(2, 4, device=device)]
    compiled = torchweld.compile(part_of_a_stack, inputs, min_block_size=1)
    torch.testing.assert_close(compiled(*inputs), part_of_a_stack(*inputs))


def test_write_before_a_tuple_of_results(device):
    """The write waits for an engine behind a loop; the tuple of results, which needs neither, comes after it."""

    @torch.jit.script
    def written_late(x: Tensor, y: Tensor):
        tensors = [x, y]
        product = x * y
        last = torch.maximum(x, y)
        x[1:].zero_()
        for t in tensors[:]:
            last = t * 0.5
        product[0].copy_(last[0])
        return (product,)

    inputs = [torch.randn(4, 4, device=device), torch.randn(4, 4, device=device)]
    compiled = torchweld.compile(written_late, [x.clone() for x in inputs], min_block_size=1)
    expected = written_late(*[x.clone() for x in inputs])
    torch.testing.assert_close(compiled(*[x.clone() for x in inputs]), expected)


def test_caller_writes_into_a_known_result(device):
    @torch.jit.script
    def known(x: Tensor):
        half = torch.ones([4, 2])
        half.mul_(0.5)
        return half, x * 2.0

    x = torch.randn(3, device=device)
    compiled = torchweld.compile(known, [x], min_block_size=1)
    assert torchweld.explain(compiled).engines
    for _ in range(4):
        half, _ = compiled(x)
        torch.testing.assert_close(half, torch.full([4, 2], 0.5))
        half.add_(1.0)


def test_known_number_keeps_its_dtype(device):
    @torch.jit.script
    def known(x: Tensor):
        zero = torch.zeros_like(x.sum())
        torch.sigmoid_(zero)
        return x + zero, zero

    x = torch.randn(3, device=device)
    compiled = torchweld.compile(known, [x], min_block_size=1)
    assert torchweld.explain(compiled).engines
    for result, right in zip(compiled(x), known(x), strict=True):
        assert result.dtype == right.dtype
        torch.testing.assert_close(result, right)


class Joined(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.before = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.behind = torch.nn.Conv2d(24, 8, 3, padding=1)

    def forward(self, x):
        y = self.before(x)
        return self.behind(torch.cat([y, torch.relu(x), y + x], 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="recorded launches")
def test_inputs_of_a_concatenation_stay_in_their_place_at_every_call():
    """They are written into the concatenation's memory; recorded launches get other inputs and outputs each time."""
    net = Joined().half().cuda().eval().to(memory_format=torch.channels_last)
    inputs = [torch.randn(1, 8, 12, 12, device="cuda").half().to(memory_format=torch.channels_last) for _ in range(5)]
    compiled = torchweld.compile(torch.jit.script(net), inputs[:1], optimization_level=1)
    results = [compiled(x) for x in inputs for _ in range(2)]
    expected = [net(x) for x in inputs for _ in range(2)]
    for actual, e in zip(results, expected, strict=True):
        assert (actual - e).abs().max() < 0.02
