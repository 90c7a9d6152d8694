"""A compiled module follows its weights: they are the module's own, under their own names."""

import pytest
import torch
import torchweld

devices = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.linear = torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.linear(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def compiled_net(device):
    torch.manual_seed(0)
    net = Net().eval().to(device)
    return net, torchweld.compile(torch.jit.script(net), [torchweld.Input((2, 3, 8, 8))], disable_tf32=True)


@pytest.mark.parametrize("device", devices)
def test_state_dict_keeps_its_names(device):
    net, compiled = compiled_net(device)
    assert set(net.state_dict()) <= set(compiled.state_dict())


@pytest.mark.parametrize("device", devices)
def test_loaded_weights_are_used(device):
    net, compiled = compiled_net(device)
    x = torch.randn(2, 3, 8, 8, device=device)
    with torch.no_grad():
        before = compiled(x)
        torch.manual_seed(1)
        other = Net().eval().to(device)
        compiled.load_state_dict(other.state_dict(), strict=False)
        for _ in range(3):  # planned, recorded, replayed
            torch.testing.assert_close(compiled(x), other(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, other(x))


def written_in_place(module):
    for parameter in module.parameters():
        parameter.mul_(1.5)


def written_and_written_back(module):
    before = [parameter.clone() for parameter in module.parameters()]
    written_in_place(module)
    for parameter, value in zip(module.parameters(), before, strict=True):
        parameter.copy_(value)


def in_other_memory(module):
    for parameter in module.parameters():
        # The allocator is likely to give the freed memory to the next one.
        parameter.data = parameter.data * 1.5
        parameter.data = parameter.data * 0.5


def statistics_written(module):
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.add_(0.5)


def moved_away_and_back(module):
    device = next(module.parameters()).device
    module.to("cpu", torch.float64)
    written_in_place(module)
    module.to(device, torch.float32)


CHANGES = [written_in_place, written_and_written_back, in_other_memory, statistics_written, moved_away_and_back]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("device", devices)
@torch.no_grad()
def test_new_shapes_see_weights_as_they_are(device, change):
    torch.manual_seed(0)
    net = Net().eval().to(device)
    spec = torchweld.Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 8, 8), max_shape=(16, 3, 8, 8))
    compiled = torchweld.compile(torch.jit.script(net), [spec], disable_tf32=True)
    torchweld.warm_up(compiled, [torch.randn(3, 3, 8, 8, device=device)])
    for batch in range(4, 10):
        change(compiled)
        names = dict(compiled.named_parameters()) | dict(compiled.named_buffers())
        for name, own in [*net.named_parameters(), *net.named_buffers()]:
            own.copy_(names[name])
        x = torch.randn(batch, 3, 8, 8, device=device)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
        # Of a shape with a plan for earlier weights, too.
        x = torch.randn(3, 3, 8, 8, device=device)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", devices)
@torch.no_grad()
def test_two_modules_of_one_net_keep_their_own_weights(device):
    torch.manual_seed(0)
    net = Net().eval().to(device)
    spec = torchweld.Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 8, 8), max_shape=(16, 3, 8, 8))
    one = torchweld.compile(torch.jit.script(net), [spec], disable_tf32=True)
    two = torchweld.compile(torch.jit.script(net), [spec], disable_tf32=True)
    written_in_place(two)
    other = Net().eval().to(device)
    other.load_state_dict(net.state_dict())
    written_in_place(other)
    for batch in range(3, 7):
        x = torch.randn(batch, 3, 8, 8, device=device)
        torch.testing.assert_close(one(x), net(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two(x), other(x), rtol=1e-4, atol=1e-5)


def test_the_given_module_is_not_changed():
    torch.manual_seed(0)
    script = torch.jit.script(Net().eval())
    before = {name: value.clone() for name, value in script.state_dict().items()}
    code = script.code
    torchweld.compile(script, [torchweld.Input((2, 3, 8, 8))])
    assert script.code == code
    assert list(script.state_dict()) == list(before)
    assert all(torch.equal(script.state_dict()[name], value) for name, value in before.items())


class BiasTwice(torch.nn.Module):
    """What kernels pack at planning is read once more beside it."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.linear = torch.nn.Linear(8, 8)

    def forward(self, x):
        y = torch.relu(self.conv(x) + self.conv.bias)
        z = self.linear(y.mean((2, 3)))
        return torch.relu(z + self.linear.bias), torch.relu(z) * self.linear.weight


@pytest.mark.parametrize("device", devices)
@torch.no_grad()
def test_weights_that_are_read_beside_their_layer(device):
    torch.manual_seed(0)
    net = BiasTwice().eval().to(device)
    x = torch.randn(8, 3, 8, 8, device=device)
    compiled = torchweld.compile(torch.jit.trace(net, x), [torchweld.Input((8, 3, 8, 8))], disable_tf32=True)
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
