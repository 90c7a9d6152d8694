"""Who calls a compiled module, and where: threads, the profiler, traced, scripted and torch.compiled callers."""

import gc
import pathlib
import subprocess
import sys
import threading
import weakref

import pytest
import torch
import torchweld
from torch import nn
from torch._subclasses import FakeTensorMode

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from checking import RANGE, compiled_of, same, two_layers


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
    scripts = [torch.jit.script(net.eval()) for net in nets]  # two threads must not script the same class
    results = {}

    def work(i):
        for _ in range(3):
            results[i] = compiled_of(scripts[i], [RANGE])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    # All of these modules have their types in one place.
    while any(thread.is_alive() for thread in threads):
        torch.jit.freeze(torch.jit.script(two_layers().eval()))
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


class Mixed(nn.Module):
    """Layers with autocast, without and with it around them, and a part that has its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.part = Casting()

    def forward(self, x):
        x = torch.relu(self.first(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = torch.relu(self.second(x))
            with torch.autocast("cpu", enabled=False):
                z = self.third(y.float())
        return x, y, z, self.part(z)


class Casting(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.softmax(self.layer(x), 1)


def test_autocast_in_a_module():
    net, x = Mixed().eval(), torch.randn(3, 4)
    script = torch.jit.script(net)
    compiled = compiled_of(script, [x], require_full_compilation=True)
    with torch.no_grad():
        for module in (compiled, script):
            results = module(x)
            assert [result.dtype for result in results] == [result.dtype for result in net(x)]
            for result, wanted in zip(results, net(x), strict=True):
                torch.testing.assert_close(result, wanted, rtol=0.02, atol=0.02)


def test_autocast_that_is_not_constant():
    def mixed(x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(x.size(0) > 2)):
            return torch.mm(x, x)

    with pytest.raises(ValueError, match="torch.autocast in the module: .*must be a constant"):
        torchweld.compile(torch.jit.script(mixed), [torch.ones(3, 3)])


def test_autocast_around_compile_and_calls_changes_nothing():
    net = two_layers()
    script = torch.jit.script(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = compiled_of(script, [torchweld.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(3, 4))])
    for around in (torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad()):
        for rows in (2, 3, 5, 5):  # the last two outside the range
            x = torch.randn(rows, 4)
            with around:
                result = compiled(x)
            same(result.detach(), net(x).detach())


def test_tensors_without_memory_of_their_own():
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Sigmoid()).eval()
    compiled = compiled_of(net, [RANGE])
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert compiled(mode.from_tensor(torch.randn(3, 4))).shape == (3, 8)
    x = torch.randn(3, 4)
    with torch.no_grad():
        result, tangent = torch.func.jvp(compiled, (x,), (torch.ones(3, 4),))
    same(result, net(x).detach())


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
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
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


def test_libtorch_does_not_optimise_what_only_calls_engines(small_net, device, monkeypatch):
    monkeypatch.setenv("TORCHWELD_DISABLE", "leave_slow_segments")
    x = torch.randn(2, 3, 16, 16, device=device)

    class Unique(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_net

        def forward(self, x):
            return torch.unique(self.net(x)).relu()

    for module, is_profiled in ((small_net, False), (Unique().eval(), True)):
        compiled = torchweld.compile(torch.jit.script(module), [x])
        compiled(x)
        try:
            compiled.get_debug_state()
            assert not is_profiled
        except RuntimeError:  # There is no state before the second call optimises.
            assert is_profiled
        for _ in range(2):
            torch.testing.assert_close(compiled(x), module(x), rtol=1e-3, atol=1e-3)


def test_compiling_a_compiled_module_again(small_net, device):
    """As parts of a larger module may be compiled already: engines stay what they are, the rest is compiled."""
    x = torch.randn(2, 3, 16, 16, device=device)
    once = torchweld.compile(torch.jit.script(small_net), [x])
    with pytest.warns(
        UserWarning,
        match="no engine was made, and the module runs as before: torchweld::run.*: it is an engine already",
    ):
        twice = torchweld.compile(once, [x])
    assert torch.equal(twice(x), once(x))

    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = once

        def forward(self, x):
            return self.inner(torch.relu(x * 2.0) + 1.0)

    around = torchweld.compile(torch.jit.script(Around().eval()), [x])
    report = torchweld.explain(around)
    assert report.fallbacks[0].op == "torchweld::run" and report.operations_in_engines == 3, report.text
    torch.testing.assert_close(around(x), once(torch.relu(x * 2.0) + 1.0))
