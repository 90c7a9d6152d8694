"""compile() and what it returns: results, ranges, options, reports."""

import copy
import re

import pytest
import torch
import torchweld

IMAGE = torchweld.Input(min_shape=(1, 3, 16, 16), opt_shape=(2, 3, 16, 16), max_shape=(8, 3, 32, 32))


def assert_equal_by_rule(module, compiled, inputs, precision=None):
    found = torchweld.compare(module, compiled, inputs, precision=precision)
    assert found.passes, found.text


def images(device, *shape):
    return torch.randn(*shape, device=device)


def test_ranges_and_several_shapes(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    for shape in ((1, 3, 16, 16), (2, 3, 16, 16), (8, 3, 32, 32), (3, 3, 17, 31)):
        assert_equal_by_rule(small_net, compiled, [images(device, *shape)])


def test_traced_scripted_and_plain_modules(small_net, device):
    x = images(device, 2, 3, 16, 16)
    for module in (torch.jit.trace(small_net, x), torch.jit.script(small_net), small_net):
        assert_equal_by_rule(small_net, torchweld.compile(module, [x]), [x])


def test_input_module_is_not_changed(small_net, device):
    script = torch.jit.script(small_net)
    before, weights = str(script.inlined_graph), copy.deepcopy(script.state_dict())
    torchweld.compile(script, [IMAGE])
    assert str(script.inlined_graph) == before
    assert all(torch.equal(weights[key], value) for key, value in script.state_dict().items())


def test_result_is_an_ordinary_script_module(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    assert isinstance(compiled, torch.jit.ScriptModule) and not compiled.training
    assert "SmallNet" in compiled.original_name
    x = images(device, 2, 3, 16, 16)
    torch.testing.assert_close(compiled(x=x), compiled(x))


def test_outputs_stay_valid_after_later_calls(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    x, y = images(device, 2, 3, 16, 16), images(device, 2, 3, 16, 16)
    first = compiled(x)
    kept = first.clone()
    for _ in range(3):
        compiled(y)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(small_net, device, guard):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    x = images(device, 1, 3, 16, 16)
    with guard():
        torch.testing.assert_close(compiled(x).detach(), small_net(x).detach(), rtol=1e-3, atol=1e-3)


def test_input_layouts(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    x = images(device, 2, 3, 16, 16)
    wide = images(device, 2, 3, 16, 32)
    for view in (
        x.contiguous(memory_format=torch.channels_last),
        wide[..., ::2],
        x.transpose(2, 3),
        x[:1].expand(4, 3, 16, 16),
    ):
        assert_equal_by_rule(small_net, compiled, [view])


def test_script_function(device):
    @torch.jit.script
    def fused(x: torch.Tensor, y: torch.Tensor, scale: float = 2.0):
        return torch.relu(x * scale + y) - torch.sigmoid(y)

    x, y = torch.randn(4, 5, device=device), torch.randn(5, device=device)
    compiled = torchweld.compile(fused, [x, y])
    torch.testing.assert_close(compiled(x, y), fused(x, y))
    assert len(torchweld.explain(compiled).engines) == 1


class Stateful(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x):
        self.total = self.total + self.fc(torch.relu(x) * 2.0 + 1.0).sum(0)
        return self.total * 1.0


def test_module_that_writes_its_own_attributes(device):
    net = Stateful().eval().to(device)
    compiled = torchweld.compile(torch.jit.script(copy.deepcopy(net)), [torchweld.Input((2, 4))])
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(2, 4, device=device)
            torch.testing.assert_close(compiled(x), net(x))


def test_in_place_operations_and_aliases(device):
    @torch.jit.script
    def change(x: torch.Tensor):
        y = x * 2.0
        part = y[:, 1:3]
        part.add_(1.0)
        y.relu_()
        return y, part

    x = torch.randn(3, 4, device=device)
    compiled = torchweld.compile(change, [x])
    kept = x.clone()
    for a, b in zip(compiled(x), change(x), strict=False):
        torch.testing.assert_close(a, b)
    assert torch.equal(x, kept)


def test_operation_that_writes_its_argument(device):
    @torch.jit.script
    def change(x: torch.Tensor):
        x.mul_(2.0)
        return torch.relu(x + 1.0) * 3.0

    compiled = torchweld.compile(change, [torch.randn(3, 4, device=device)])
    a = torch.randn(3, 4, device=device)
    b = a.clone()
    torch.testing.assert_close(compiled(a), change(b))
    torch.testing.assert_close(a, b)


class Control(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x, steps: int):
        for _ in range(steps):
            x = torch.relu(self.fc(x)) + x * 0.5
        if bool(x.sum() > 0):
            x = torch.sigmoid(x * 2.0 + 1.0)
        else:
            x = torch.tanh(x * 3.0 - 1.0)
        return x


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_control_flow(device, steps):
    net = torch.jit.script(Control().eval().to(device))
    compiled = torchweld.compile(net, [torchweld.Input((2, 4)), steps])
    for sign in (-3.0, 3.0):
        x = torch.full((2, 4), sign, device=device)
        torch.testing.assert_close(compiled(x, steps), net(x, steps))
    torch.testing.assert_close(compiled(x, 2), net(x, 2))


def test_assertions_of_the_module_still_raise(device):
    @torch.jit.script
    def guarded(x: torch.Tensor):
        y = torch.relu(x * 2.0 + 1.0)
        assert bool(y.max() < 100.0), "too large"
        return y - 1.0

    compiled = torchweld.compile(guarded, [torchweld.Input((3,))])
    compiled(torch.zeros(3, device=device))
    with pytest.raises(torch.jit.Error, match="too large"):
        compiled(torch.full((3,), 1e3, device=device))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8, torch.bfloat16, torch.float16]
)
def test_dtypes_are_native(device, dtype):
    def run(x, y):
        return torch.where(x == y, x, y), torch.cat([x, y]), (x + y)[1:]

    x, y = (torch.randint(0, 2, (4, 3), device=device).to(dtype) for _ in range(2))
    compiled = torchweld.compile(torch.jit.trace(run, (x, y)), [x, y])
    for a, b in zip(compiled(x, y), run(x, y), strict=False):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("precision", [torch.half, torch.bfloat16])
def test_reduced_precision_keeps_the_types_outside(small_net, device, precision):
    x = images(device, 2, 3, 16, 16)
    try:
        compiled = torchweld.compile(torch.jit.script(small_net), [x], enabled_precisions={torch.float32, precision})
    except RuntimeError as error:
        assert "precision" in str(error) or "processor" in str(error)
        pytest.skip(str(error))
    assert compiled(x).dtype == torch.float32
    assert_equal_by_rule(small_net, compiled, [x], precision)


def test_excluded_operators_and_modules(small_net, device):
    x = images(device, 1, 3, 16, 16)
    script = torch.jit.script(small_net)
    for option in (
        dict(torch_executed_ops=["aten::relu"]),
        dict(torch_executed_ops=["aten::relu_"]),
        dict(torch_executed_ops=[torch.ops.aten.relu.default]),
        dict(torch_executed_modules=["head"]),
        dict(torch_executed_modules=[torch.nn.Linear]),
    ):
        compiled = torchweld.compile(script, [x], min_block_size=1, **option)
        report = torchweld.explain(compiled)
        assert report.fallbacks, option
        assert_equal_by_rule(small_net, compiled, [x])
    assert any("linear" in fallback.op or "addmm" in fallback.op for fallback in report.fallbacks)


def test_excluded_operators_in_place():
    def in_place(x):
        y = x * 2.0
        y.relu_().add_(x)
        return y - 1.0

    x = torch.randn(4)
    for name, left in (
        ("aten::relu_", "aten::relu"),
        ("aten::relu", "aten::relu"),
        ("aten::add_.Tensor", "aten::add.Tensor"),
    ):
        options = dict(min_block_size=1, torch_executed_ops=[name], optimization_level=0)
        report = torchweld.explain(torchweld.compile(torch.jit.script(in_place), [x], **options))
        assert [fallback.op for fallback in report.fallbacks] == [left], name


def test_segment_that_needs_only_the_size_of_another_ones_result(device):
    def by_size(x, y):
        a = torch.relu(x * 2.0 + 1.0)
        s = torch.sin(y)
        return torch.relu(s.view(a.size(0), -1) * 2.0 + 1.0), torch.exp(torch.cos(a * 3.0))

    inputs = [torch.randn(4, 6, device=device), torch.randn(24, device=device)]
    script = torch.jit.script(by_size)
    options = dict(min_block_size=1, torch_executed_ops=["aten::sin", "aten::cos"])
    compiled = torchweld.compile(script, inputs, **options)
    assert len(torchweld.explain(compiled).engines) > 1
    for result, wanted in zip(compiled(*inputs), by_size(*inputs), strict=True):
        torch.testing.assert_close(result, wanted)


class Listed(torch.nn.Module):
    """Keeps tensors in a list, one of which it writes, beside a buffer that it only reads."""

    def __init__(self):
        super().__init__()
        self.caches = [torch.zeros(4), torch.ones(4)]
        self.register_buffer("offset", torch.full((4,), 3.0))

    def forward(self, x):
        self.caches[0].add_(x)
        return torch.relu(self.caches[0] * 2.0 + self.offset)


def test_tensor_of_a_list_that_the_module_writes():
    eager = Listed()
    compiled = torchweld.compile(torch.jit.script(Listed()), [torch.zeros(4)], min_block_size=1)
    for _ in range(3):
        x = torch.rand(4)
        torch.testing.assert_close(compiled(x), eager(x))


class Masking(torch.nn.Module):
    """Writes into what may be new memory or an input; its weights are neither."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)

    def forward(self, x, flag: bool):
        mask = x if flag else torch.zeros_like(x)
        mask.add_(1.0)
        return torch.relu(self.linear(torch.exp(x * 0.5))), mask


@pytest.mark.parametrize("flag", [True, False])
def test_writing_an_input_leaves_weights_in_engines(device, flag):
    net = Masking().eval().to(device)
    x = torch.randn(3, 6, device=device)
    compiled = torchweld.compile(torch.jit.script(net), [x, flag], min_block_size=1)
    assert not any("GetAttr" in fallback.op for fallback in torchweld.explain(compiled).fallbacks)
    ours, wanted = x.clone(), x.clone()
    for result, right in zip(compiled(ours, flag), net(wanted, flag), strict=True):
        torch.testing.assert_close(result, right)
    torch.testing.assert_close(ours, wanted)


def test_small_segments_stay_in_torch(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE], min_block_size=1000)
    report = torchweld.explain(compiled)
    assert not report.engines
    assert_equal_by_rule(small_net, compiled, [images(device, 2, 3, 16, 16)])


def test_report(small_net, device):
    import json

    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and not report.fallbacks and report.flops_in_engines > 0.99
    engine = report.engines[0]
    assert engine.steps and engine.inputs and engine.outputs and "f32" in engine.precision
    assert engine.name in report.text and engine.steps[0].tactic in report.text
    data = json.loads(report.to_json())
    assert set(data) >= {"engines", "fallbacks", "flops_in_engines"}
    assert data["engines"][0]["name"] == engine.name


def test_dry_run_agrees_with_compile(small_net, device):
    script = torch.jit.script(small_net)
    planned = torchweld.dry_run(script, [IMAGE])
    assert len(planned.engines) == 1 and not planned.fallbacks
    planned = torchweld.dry_run(script, [IMAGE], torch_executed_ops=["aten::relu"], min_block_size=1)
    assert any(fallback.op == "aten::relu" and fallback.reason for fallback in planned.fallbacks)


def test_fallback_has_reason_and_source(device):
    def sort_out(x):
        y = torch.relu(x * 2.0 + 1.0)
        return torch.sigmoid(torch.unique(y)) * 2.0 + 1.0

    x = torch.randn(4, 4, device=device)
    compiled = torchweld.compile(torch.jit.script(sort_out), [x])
    torch.testing.assert_close(compiled(x), sort_out(x))
    found = [f for f in torchweld.explain(compiled).fallbacks if "unique" in f.op]
    assert found and found[0].reason and "test_compile.py" in found[0].source


class Masked(torch.nn.Module):
    """Attention written out, in which the lowest number of float32 hides what is not attended to."""

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(16, 48)

    def forward(self, x, attended):
        q, k, v = self.project(x).view(1, 6, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.where(attended[:, None, None, :], 0.0, torch.finfo(torch.float32).min)
        return torch.softmax(q @ k.transpose(-1, -2) * 0.5 + mask, -1) @ v


@pytest.mark.parametrize("count", [0, 3])
def test_the_lowest_number_hides_in_bfloat16_too(device, count):
    x, attended = torch.randn(1, 6, 16, device=device), torch.arange(6, device=device)[None] < count
    net = Masked().eval().to(device)
    trace = torch.jit.trace(net, (x, attended))
    compiled = torchweld.compile(trace, [x, attended], enabled_precisions={torch.float32, torch.bfloat16})
    torch.testing.assert_close(compiled(x, attended), net(x, attended), rtol=0.02, atol=0.02)


def test_warm_up(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    x = images(device, 5, 3, 16, 16)
    torchweld.warm_up(compiled, [x])
    assert_equal_by_rule(small_net, compiled, [x])


def test_what_raises_on_random_numbers_compiles(device, monkeypatch):
    """An engine is timed against LibTorch on random numbers, which no Cholesky decomposition takes."""
    monkeypatch.setenv("TORCHWELD_DISABLE", "")

    class Factor(torch.nn.Module):
        def forward(self, x):
            return torch.relu(torch.linalg.cholesky(x) * 2 + 1)

    root = images(device, 4, 4)
    x = root @ root.mT + torch.eye(4, device=device)
    compiled = torchweld.compile(torch.jit.script(Factor().eval()), [x], min_block_size=1, disable_tf32=True)
    assert len(torchweld.explain(compiled).engines) == 1
    assert_equal_by_rule(Factor(), compiled, [x])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tf32_is_reported_and_compared_with_tf32():
    net = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3), torch.nn.ReLU()).eval().cuda()
    x = torch.randn(2, 64, 20, 20, device="cuda")
    for disable, precision in ((False, "tf32"), (True, "f32")):
        compiled = torchweld.compile(net, [x], disable_tf32=disable, min_block_size=1)
        assert torchweld.explain(compiled).engines[0].precision == precision
        assert_equal_by_rule(net, compiled, [x])


def test_progress_is_told(small_net, device):
    told = []
    torchweld.compile(torch.jit.script(small_net), [IMAGE], progress=lambda what, share: told.append((what, share)))
    words, shares = zip(*told, strict=True)
    assert (words[0], shares[0]) == ("analysing", 0) and (words[-1], shares[-1]) == ("done", 1)
    steps = [re.fullmatch(r"building segment_0, step (\d+) of (\d+)", what) for what in words[1:-1]]
    assert all(steps) and int(steps[0][1]) == 1 and int(steps[-1][1]) == int(steps[-1][2]), words
    assert max(int(step[2]) for step in steps) > 1, words  # In the last of several rounds there may be one.
    assert list(shares) == sorted(shares) and len(set(shares)) > 3


def test_module_without_tensor_work(device):
    @torch.jit.script
    def same(x: torch.Tensor):
        return x

    x = torch.randn(3, device=device)
    assert torch.equal(torchweld.compile(same, [x])(x), x)


class NormAfterConvolution(torch.nn.Module):
    """Of inputs whose mean is many times their deviation."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 32, 3, padding=1)
        self.norm = torch.nn.GroupNorm(32, 32)

    def forward(self, x):
        return self.norm(self.conv(x))


def test_norms_do_not_cancel_in_the_layout_of_convolutions(device):
    net, x = NormAfterConvolution().eval().to(device), 30 + images(device, 1, 3, 64, 64)
    compiled = torchweld.compile(torch.jit.script(net), [x], disable_tf32=True, optimization_level=0)
    assert_equal_by_rule(net, compiled, [x])


class Recurrence(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.GRU(16, 16, 2)

    def forward(self, x):
        return self.layers(x)[0]


def test_a_recurrent_layer_alone_is_enough_for_an_engine():
    net, x = Recurrence().eval(), torch.randn(1, 1, 16)
    compiled = torchweld.compile(torch.jit.script(net), [x])
    assert len(torchweld.explain(compiled).engines) == 1
    assert torch.allclose(compiled(x), net(x), atol=1e-6)
