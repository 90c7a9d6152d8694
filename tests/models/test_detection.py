"""Detection, segmentation and flow nets of torchvision, scripted: heavy parts in few engines, equal results."""

import pytest
import torch
import torchweld
from torchweld._compare import flatten

models = pytest.importorskip("torchvision.models")


def images():
    return [torch.rand(3, 200, 260), torch.rand(3, 240, 180)]


def frames():
    return torch.rand(1, 3, 128, 128) * 2 - 1


# name -> (options, arguments, most engines)
NETS = {
    "ssdlite320_mobilenet_v3_large": (dict(weights_backbone=None), lambda: [images()], 4),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (
        dict(weights_backbone=None, min_size=128, max_size=160, box_score_thresh=0.0),
        lambda: [images()],
        8,
    ),
    "lraspp_mobilenet_v3_large": (dict(weights_backbone=None), lambda: [torch.rand(1, 3, 96, 96)], 1),
    "raft_small": (dict(), lambda: [frames(), frames()], 2),
}


@pytest.mark.parametrize("name", NETS)
def test_heavy_parts_in_engines(name, device):
    options, arguments, most_engines = NETS[name]
    net = models.get_model(name, weights=None, **options).eval().to(device)
    script = torch.jit.script(net)
    inputs = arguments()
    inputs = [[x.to(device) for x in a] if isinstance(a, list) else a.to(device) for a in inputs]
    compiled = torchweld.compile(script, inputs, optimization_level=0, disable_tf32=True)
    report = torchweld.explain(compiled)
    assert report.flops_in_engines >= 0.95, report.text
    assert 1 <= len(report.engines) <= most_engines, report.text
    assert all(fallback.reason for fallback in report.fallbacks)
    # Eager's convolutions would use TF32 by themselves.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        compiled(*inputs)  # engines whose sizes depend on data are planned when they come again
        check_equal(script(*inputs), compiled(*inputs))


def check_equal(expected, actual):
    """Detections have partners; other tensors differ by a thousandth of their largest element at most."""
    if isinstance(expected, tuple) and len(expected) == 2 and isinstance(expected[1], list):
        for e, a in zip(expected[1], actual[1], strict=True):
            check_detections(e, a)
        return
    expected, actual = flatten(expected), flatten(actual)
    assert [name for name, _ in expected] == [name for name, _ in actual]
    for (name, e), (_, a) in zip(expected, actual, strict=True):
        assert e.shape == a.shape and torch.allclose(
            e.double(), a.double(), rtol=0, atol=1e-3 * float(e.abs().max())
        ), name


def check_detections(expected, actual):
    """As many, with the same scores, and most have a partner of the same label, place and score: random weights give
    near ties, of which rounding decides which survives; eager in float32 and in float64 differ as much."""
    count = len(expected["boxes"])
    assert count > 0 and count == len(actual["boxes"])
    near = (actual["boxes"][:, None] - expected["boxes"][None]).abs().amax(-1) < 0.1
    near &= (actual["scores"][:, None] - expected["scores"][None]).abs() < 1e-3
    near &= actual["labels"][:, None] == expected["labels"][None]
    assert torch.allclose(actual["scores"], expected["scores"], atol=1e-3)
    assert near.any(1).float().mean() >= 0.5


def test_other_number_of_images(device):
    """The loops over images stay in LibTorch, so nothing depends on how many there are."""
    options, arguments, _ = NETS["ssdlite320_mobilenet_v3_large"]
    net = models.get_model("ssdlite320_mobilenet_v3_large", weights=None, **options).eval().to(device)
    script = torch.jit.script(net)
    pair = [x.to(device) for x in images()]
    compiled = torchweld.compile(script, [pair], optimization_level=0, outside_range="build", disable_tf32=True)
    with torch.no_grad():
        assert len(compiled(pair[:1])[1]) == 1
        check_equal(script(pair[:1]), compiled(pair[:1]))
