"""torchvision's classifiers with seeded weights: one engine, nothing left to LibTorch, equal to eager by the rule."""

import pytest
import torch
import torchweld
from torchweld._models import settle_norms

models = pytest.importorskip("torchvision.models")

# The smallest member of each family, with the side of its pictures here.
FAMILIES = {
    "alexnet": 64, "vgg11_bn": 32, "resnet18": 64, "resnet50": 64, "resnext50_32x4d": 64, "mobilenet_v2": 64,
    "mobilenet_v3_small": 64, "efficientnet_b0": 64, "efficientnet_v2_s": 64, "densenet121": 64, "inception_v3": 96,
    "googlenet": 64, "squeezenet1_1": 64, "shufflenet_v2_x0_5": 64, "regnet_y_400mf": 64, "regnet_x_400mf": 64,
    "convnext_tiny": 64, "mnasnet0_5": 64,
}  # fmt: skip
# Tuned where a GPU is; the others get the kernels that rules choose, which takes a tenth of the time.
TUNED = ["resnet50", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf"]
PRECISIONS = [("cpu", torch.float32), ("cuda:0", torch.float32), ("cuda:0", torch.half), ("cuda:0", torch.bfloat16)]


def seeded(name):
    """Random weights, with batch norms that keep the signal from dying or exploding on its way to the end: rounding
    errors would grow with it, and whose grows more would be chance."""
    torch.manual_seed(0)
    options = {"init_weights": True} if name in ("inception_v3", "googlenet") else {}
    net = models.get_model(name, weights=None, **options).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2)
            module.bias.data.normal_(0, 0.1)
    settle_norms(net, torch.randn(4, 3, FAMILIES[name], FAMILIES[name]))
    return net


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("device, precision", PRECISIONS, ids=["cpu-f32", "cuda-f32", "cuda-f16", "cuda-bf16"])
def test_one_engine_equal_to_eager(name, device, precision, tmp_path):
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    side = FAMILIES[name]
    net = seeded(name).to(device)
    spec = torchweld.Input(min_shape=(1, 3, side, side), opt_shape=(1, 3, side, side), max_shape=(4, 3, side, side))
    x, more = (torch.randn(n, 3, side, side, device=device) for n in (1, 3))
    script = torch.jit.trace(net, x)
    # On two busy CPU cores timings, and with them choice and rounding, would differ from run to run.
    level = 1 if device != "cpu" and precision == torch.half and name in TUNED else 0
    # TF32 rounds more coarsely than eager's float32 does.
    compiled = torchweld.compile(
        script, [spec], enabled_precisions={torch.float32, precision}, optimization_level=level, disable_tf32=True
    )
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and not report.fallbacks, report.text
    reduced = precision if precision != torch.float32 else None
    for batch in (x, more):
        found = torchweld.compare(net, compiled, [batch], precision=reduced)
        assert found.passes, found.text
    path = str(tmp_path / "net.ts")
    torch.jit.save(compiled, path)
    again = torchweld.load(path)
    with torch.no_grad():
        assert torch.equal(again(x), compiled(x))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_scripted_instead_of_traced(name, device):
    net = seeded(name).to(device)
    x = torch.randn(2, 3, 64, 64, device=device)
    level = 0 if device == "cpu" else 1
    compiled = torchweld.compile(torch.jit.script(net), [x], optimization_level=level, disable_tf32=True)
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and not report.fallbacks, report.text
    found = torchweld.compare(net, compiled, [x])
    assert found.passes, found.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_module_that_is_already_half(name):
    net = seeded(name).cuda().half()
    x = torch.randn(2, 3, 64, 64, device="cuda").half()
    compiled = torchweld.compile(torch.jit.trace(net, x), [x], optimization_level=1)
    assert compiled(x).dtype == torch.half
    found = torchweld.compare(net, compiled, [x])
    assert found.passes, found.text


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"])
def test_bfloat16_on_the_cpu(name):
    """From an f32 module, and as a module that is bfloat16 itself."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("oneDNN does not compute in bfloat16 on this processor")
    net = seeded(name)
    x = torch.randn(2, 3, FAMILIES[name], FAMILIES[name])
    options = {"enabled_precisions": {torch.float32, torch.bfloat16}, "optimization_level": 0}
    compiled = torchweld.compile(torch.jit.trace(net, x), [x], **options)
    assert compiled(x).dtype == torch.float32
    found = torchweld.compare(net, compiled, [x], precision=torch.bfloat16)
    assert found.passes, found.text
    net, x = net.bfloat16(), x.bfloat16()
    compiled = torchweld.compile(torch.jit.trace(net, x), [x], **options)
    assert compiled(x).dtype == torch.bfloat16
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and not report.fallbacks, report.text
    found = torchweld.compare(net, compiled, [x])
    assert found.passes, found.text
