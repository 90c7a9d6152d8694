"""What all Python tests share: devices, the tolerance rule, small modules."""

import os

import pytest
import torch

# What runs in an engine must not depend on how busy the machine is.
os.environ.setdefault("TORCHWELD_DISABLE", "leave_slow_segments")

DEVICES = ["cpu", "cuda:0"]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class SmallNet(torch.nn.Module):
    """Convolution, norm, activation, pooling and a linear layer: one of each."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        return self.head(y.mean([2, 3]))


@pytest.fixture
def small_net(device):
    net = SmallNet()
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    return net.eval().to(device)
