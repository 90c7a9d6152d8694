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


def test_the_given_module_is_not_changed():
    torch.manual_seed(0)
    script = torch.jit.script(Net().eval())
    before = {name: value.clone() for name, value in script.state_dict().items()}
    code = script.code
    torchweld.compile(script, [torchweld.Input((2, 3, 8, 8))])
    assert script.code == code
    assert list(script.state_dict()) == list(before)
    assert all(torch.equal(script.state_dict()[name], value) for name, value in before.items())
