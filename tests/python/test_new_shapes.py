"""Shapes that come for the first time. On a GPU their plans take a compiler: until they are ready calls run by what
has been compiled, or in LibTorch.
"""

import gc
import subprocess
import sys
import threading

import pytest
import torch
import torchweld
from torch import nn
from torchweld import _C

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Net(nn.Module):
    """Layers of different sizes, so that planning takes a while."""

    def __init__(self, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(8 + 8 * i, 16 + 8 * i, 3, padding=1) for i in range(depth))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.mean([2, 3])


def compiled_net(depth=6, **options):
    net = Net(depth).eval().cuda().half()
    spec = torchweld.Input(min_shape=(1, 8, 8, 8), opt_shape=(1, 8, 8, 8), max_shape=(64, 8, 64, 64), dtype=torch.half)
    script = torch.jit.script(net)
    return net, torchweld.compile(script, [spec], optimization_level=0, **options)


def picture(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.half)


def equal(net, compiled, x):
    torch.testing.assert_close(compiled(x), net(x), rtol=0.01, atol=0.01)


def events_of_a_call(compiled, x):
    """LibTorch's operators, the tactics of steps that are not replayed, and CUDA's own calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        compiled(x)
    return {event.key for event in profile.key_averages()}


@torch.no_grad()
def test_calls_run_in_libtorch_until_the_plan_is_ready(monkeypatch):
    monkeypatch.setenv("TORCHWELD_DISABLE", "leave_slow_segments,plan_at_once")
    net, compiled = compiled_net()
    x = picture(3, 8, 20, 12)
    plans = _C.finish_planning()
    first = events_of_a_call(compiled, x)
    equal(net, compiled, x)
    assert _C.finish_planning() == plans + 1
    second = events_of_a_call(compiled, x)
    assert "aten::conv2d" in first and "aten::conv2d" not in second, (first, second)
    equal(net, compiled, x)
    assert _C.finish_planning() == plans + 1


@torch.no_grad()
def test_a_new_shape_is_planned_at_once_from_code_that_is_there():
    x = picture(3, 8, 20, 12)
    _, other = compiled_net()
    torchweld.warm_up(other, [x])
    net, compiled = compiled_net()
    plans = _C.finish_planning()
    first = events_of_a_call(compiled, x)
    assert "aten::conv2d" not in first, first
    for _ in range(3):
        equal(net, compiled, x)
    assert _C.finish_planning() == plans + 1
    for _ in range(3):
        equal(net, compiled, x)


class BlockNet(nn.Module):
    """A stem with its pool, inverted residuals and a pooled classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.expand = nn.ModuleList(nn.Conv2d(16, 96, 1) for _ in range(4))
        self.depthwise = nn.ModuleList(nn.Conv2d(96, 96, 3, padding=1, groups=96) for _ in range(4))
        self.project = nn.ModuleList(nn.Conv2d(96, 16, 1) for _ in range(4))
        self.classify = nn.Linear(16, 24)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.stem(x)), 3, 2, 1)
        for expand, depthwise, project in zip(self.expand, self.depthwise, self.project, strict=True):
            x = x + project(torch.relu(depthwise(torch.relu(expand(x)))))
        return self.classify(x.mean([2, 3]))


@torch.no_grad()
def test_blocks_are_planned_at_once(monkeypatch):
    monkeypatch.setenv("TORCHWELD_DISABLE", "leave_slow_segments")
    net = BlockNet().eval().cuda().half()
    shape = (3, 48, 48)
    spec = torchweld.Input(min_shape=(1, *shape), opt_shape=(1, *shape), max_shape=(64, *shape), dtype=torch.half)
    compiled = torchweld.compile(torch.jit.trace(net, picture(1, *shape)), [spec], optimization_level=1)
    for batch in (5, 64):
        x = picture(batch, *shape)
        first = events_of_a_call(compiled, x)
        # More samples than the pooled classifier takes: its product may be LibTorch's.
        assert not {"aten::conv2d", "aten::_convolution", "aten::cudnn_convolution"} & first, first
        for _ in range(3):
            equal(net, compiled, x)
        _C.finish_planning()
        equal(net, compiled, x)


class AttentionNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.joined, self.out = nn.Linear(256, 768), nn.Linear(256, 256)

    def forward(self, x):
        parts = self.joined(x).view(x.shape[0], x.shape[1], 3, 4, 64).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.out(y.transpose(1, 2).reshape(x.shape))


@torch.no_grad()
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9,
    reason="warpgroups have tiles of one size for all lengths",
)
def test_attention_is_planned_at_once_at_other_lengths(monkeypatch):
    """By code that was timed for the first length, though another configuration was chosen there."""
    monkeypatch.setenv("TORCHWELD_DISABLE", "leave_slow_segments")
    net = AttentionNet().eval().cuda().half()
    spec = torchweld.Input(min_shape=(1, 64, 256), opt_shape=(1, 128, 256), max_shape=(1, 1024, 256), dtype=torch.half)
    compiled = torchweld.compile(torch.jit.script(net), [spec], optimization_level=1)
    for length in (384, 500):
        x = torch.randn(1, length, 256, device="cuda", dtype=torch.half)
        first = events_of_a_call(compiled, x)
        assert "aten::scaled_dot_product_attention" not in first, first
        equal(net, compiled, x)
        _C.finish_planning()
        equal(net, compiled, x)


@torch.no_grad()
def test_many_new_shapes_at_once():
    net, compiled = compiled_net(depth=2, max_cached_plans=3)
    for _ in range(3):
        for size in range(8, 20):
            equal(net, compiled, picture(1, 8, size, size))
    _C.finish_planning()
    for size in range(8, 20):
        equal(net, compiled, picture(1, 8, size, size))
    _C.finish_planning()


@torch.no_grad()
def test_graphs_are_captured_beside_planning(recwarn):
    net, compiled = compiled_net()
    known, x = picture(1, 8, 8, 8), picture(5, 8, 12, 12)
    for _ in range(3):
        compiled(known)
    torch.cuda.synchronize()
    compiled(x)
    graphs = []
    for _ in range(20):  # some of them while the plan is being made
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = compiled(known)
        graphs.append((graph, result))
    _C.finish_planning()
    for graph, result in graphs:
        graph.replay()
        torch.testing.assert_close(result, net(known), rtol=0.01, atol=0.01)
    equal(net, compiled, x)
    assert not [w for w in recwarn if "torchweld" in str(w.message)]


@torch.no_grad()
def test_capturing_a_call_without_a_plan_is_told():
    net, compiled = compiled_net(depth=2)
    x = picture(2, 8, 9, 9)
    net(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(UserWarning, match="warm_up"), torch.cuda.graph(graph):
        result = compiled(x)
    graph.replay()
    torch.testing.assert_close(result, net(x), rtol=0.01, atol=0.01)
    _C.finish_planning()
    equal(net, compiled, x)


def test_a_process_may_end_while_planning():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch, test_new_shapes as t\n"
        "net, compiled = t.compiled_net()\n"
        "with torch.no_grad(): [t.equal(net, compiled, t.picture(1, 8, s, s)) for s in range(9, 14)]\n"
    )
    folder = __file__.rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@torch.no_grad()
def test_new_weights_at_a_shape_planned_in_the_background():
    net, compiled = compiled_net(depth=2)
    x = picture(2, 8, 9, 9)
    torchweld.warm_up(compiled, [x])
    equal(net, compiled, x)
    for parameter in [*net.parameters(), *compiled.parameters()]:
        parameter.mul_(0.5)
    for _ in range(2):
        equal(net, compiled, x)
        _C.finish_planning()


@torch.no_grad()
def test_a_plan_is_let_go_while_another_stream_runs_it(monkeypatch):
    # Else the plan may share what the one made at once has packed, in memory of the other stream.
    monkeypatch.setenv("TORCHWELD_DISABLE", "leave_slow_segments,plan_at_once")
    net, compiled = compiled_net()
    x = picture(2, 8, 32, 32)
    expected = net(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torchweld.warm_up(compiled, [x])
        stream.synchronize()
        torch.cuda._sleep(100_000_000)
        result = compiled(x)
    del compiled
    gc.collect()
    others = [torch.full((n,), float("nan"), device="cuda") for n in [1 << k for k in range(4, 20)] * 20]
    torch.cuda.synchronize()
    torch.testing.assert_close(result, expected, rtol=0.01, atol=0.01)
    del others


@torch.no_grad()
def test_a_graph_captured_while_planning_keeps_its_numbers():
    net, compiled = compiled_net(depth=3)
    torchweld.warm_up(compiled, [picture(2, 8, 16, 16)])  # So that the next shape is planned at once.
    x = picture(2, 8, 16, 18)
    compiled(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compiled(x)
    _C.finish_planning()
    compiled(x)
    others = [torch.full((n,), float("nan"), device="cuda") for n in [1 << k for k in range(4, 20)] * 20]
    graph.replay()
    torch.testing.assert_close(result, net(x), rtol=0.01, atol=0.01)
    del others


@torch.no_grad()
def test_threads_meet_a_new_shape_together():
    net, compiled = compiled_net(depth=3)
    torchweld.warm_up(compiled, [picture(2, 8, 16, 16)])
    x = picture(3, 8, 16, 16)
    results = []
    threads = [threading.Thread(target=lambda: results.append(compiled(x))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(threads)
    for result in results:
        torch.testing.assert_close(result, net(x), rtol=0.01, atol=0.01)
    _C.finish_planning()
    equal(net, compiled, x)


def double_in_place(compiled):
    for parameter in compiled.parameters():
        parameter.mul_(2.0)


def double_elsewhere(compiled):
    for parameter in compiled.parameters():
        parameter.data = parameter.data * 2.0


def move_and_double(compiled):
    compiled.cpu()
    compiled.cuda()
    double_in_place(compiled)


@torch.no_grad()
@pytest.mark.parametrize("change", [double_in_place, double_elsewhere, move_and_double])
def test_weights_that_change_while_planning(change):
    for size in range(9, 14):
        net, compiled = compiled_net(depth=3)
        x = picture(2, 8, size, size)
        compiled(x)
        change(compiled)
        for own, new in zip(net.parameters(), compiled.parameters(), strict=True):
            own.copy_(new)
        _C.finish_planning()
        for _ in range(3):
            equal(net, compiled, x)
            _C.finish_planning()


@torch.no_grad()
@pytest.mark.parametrize("disabled", ["", "cuda_implicit_gemm"])
def test_plans_share_packed_weights(monkeypatch, disabled):
    monkeypatch.setenv("TORCHWELD_DISABLE", f"leave_slow_segments,{disabled}")
    net = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(4))).eval().cuda().half()
    weights = sum(p.nbytes for p in net.parameters())
    rows = torchweld.Input(min_shape=(64, 2048), opt_shape=(64, 2048), max_shape=(96, 2048), dtype=torch.half)
    compiled = torchweld.compile(torch.jit.script(net), [rows], optimization_level=0)
    torchweld.warm_up(compiled, [torch.randn(64, 2048, device="cuda", dtype=torch.half)])
    _C.finish_planning()  # Of modules of other tests, too.
    used = []
    shapes = (66, 68, 70, 72)
    for n in shapes:
        x = torch.randn(n, 2048, device="cuda", dtype=torch.half)
        torchweld.warm_up(compiled, [x])
        torch.testing.assert_close(compiled(x), net(x), rtol=0.02, atol=0.02)
        used.append(torch.cuda.memory_allocated())
    # Up to the first, LibTorch's cuBLAS takes workspaces, too. Own kernels may pack differently for some of the shapes;
    # without sharing each would hold all weights.
    assert used[-1] - used[0] < (len(shapes) - 2) * weights, (used, weights)


@torch.no_grad()
def test_plans_made_at_once_take_what_is_packed(monkeypatch):
    """Neither folds batch norms nor packs weights that a living plan holds."""
    layers = [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU()] * 3
    net = nn.Sequential(*layers).eval().cuda().half()
    for norm in layers[1::3]:
        norm.running_var.uniform_(0.5, 2)
    spec = torchweld.Input(min_shape=(1, 64, 8, 8), opt_shape=(2, 64, 8, 8), max_shape=(8, 64, 8, 8), dtype=torch.half)
    # The only kernel, in the same configuration for all batch sizes.
    monkeypatch.setenv("TORCHWELD_DISABLE", "leave_slow_segments,cuda_few_rows,fuse_blocks")
    compiled = torchweld.compile(torch.jit.script(net), [spec], optimization_level=0)
    torchweld.warm_up(compiled, [picture(4, 64, 8, 8)])
    x = picture(3, 64, 8, 8)
    folding = "aten::rsqrt"  # By passes, in the thread of the call.
    first = events_of_a_call(compiled, x)
    assert "aten::conv2d" not in first, first
    assert folding not in first, first
    for _ in range(2):
        equal(net, compiled, x)
        _C.finish_planning()
    for parameter in [*net.parameters(), *compiled.parameters()]:
        parameter.mul_(0.5)
    x = picture(5, 64, 8, 8)
    assert folding in events_of_a_call(compiled, x)
    equal(net, compiled, x)


@torch.no_grad()
def test_threads_write_weights_while_shapes_are_new():
    net, compiled = compiled_net(depth=3)
    torchweld.warm_up(compiled, [picture(2, 8, 16, 16)])
    for size in range(9, 15):
        x = picture(2, 8, size, size)
        threads = [threading.Thread(target=lambda x=x: compiled(x)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for parameter in compiled.parameters():
            parameter.mul_(1.01)
        for thread in threads:
            thread.join()
        for own, new in zip(net.parameters(), compiled.parameters(), strict=True):
            own.copy_(new)
        torch.cuda.synchronize()
        for _ in range(2):
            equal(net, compiled, x)
            _C.finish_planning()
