"""Models that bench knows by name, with random weights under which they do all their work."""

import torch

from . import _inputs


def is_file(model):
    """Whether a model is named by a file of torch.jit.save."""
    return model.endswith((".ts", ".pt", ".pth"))


def load(name, batch, dtype, args):
    """The module and its inputs, both of `dtype` on args.device; of a file, the inputs are those of args.input."""
    torch.manual_seed(0)
    if is_file(name):
        module = torch.jit.load(name, map_location=args.device).eval().to(dtype)
        specs = [_inputs.parse_input(text) for text in args.input]
        return module, [_inputs.random_tensor(spec, args.device) for spec in specs]
    if name.startswith("transformers/"):
        return _load_text_model(name.removeprefix("transformers/"), batch, dtype, args)
    import torchvision

    segments = name in torchvision.models.list_models(module=torchvision.models.segmentation)
    kwargs = {"weights_backbone": None} if segments else {}
    if name in ("inception_v3", "googlenet"):
        kwargs = {"init_weights": True}
    module = torchvision.models.get_model(name, weights=None, **kwargs).eval().to(args.device)
    side = args.side or (512 if segments else 299 if name == "inception_v3" else 224)
    fill_silent_weights(module)
    settle_norms(module, torch.randn(4, 3, side, side).to(args.device))
    return module.to(dtype), [torch.randn(batch, 3, side, side).to(args.device, dtype)]


class _Text(torch.nn.Module):
    """A text model of transformers as a function of tokens and mask that gives its last hidden states."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, mask):
        return self.model(input_ids=tokens, attention_mask=mask)[0]


def _load_text_model(kind, batch, dtype, args):
    """The base size of its kind; a tenth of each text is padding."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, use_cache=False, return_dict=False)
    module = _Text(transformers.AutoModel.from_config(config)).eval().to(args.device, dtype)
    tokens = torch.randint(0, config.vocab_size, (batch, args.sequence), device=args.device)
    mask = torch.ones_like(tokens)
    mask[:, args.sequence - args.sequence // 10 :] = 0
    return module, [tokens, mask]


def fill_silent_weights(module):
    """Other numbers for weights that start at zero or almost: any result of what they multiply would be right.

    Random ones for matrices (heads of vision transformers), 1/2 for the scales that networks end their branches with
    (norms' weights that start at zero, layer scales).
    """
    for name, parameter in module.named_parameters():
        if name.endswith("bias") or parameter.numel() == 0 or parameter.min() != parameter.max():
            continue
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
        elif parameter.abs().max() < 0.01:
            torch.nn.init.constant_(parameter, 0.5)


def settle_norms(module, x):
    """Gives the batch norms of an untrained network the statistics of its own activations.

    With those it is made with, activations shrink from layer to layer until they are denormal, and everybody's timing
    is that of denormals.
    """
    norms = [child for child in module.modules() if isinstance(child, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    if norms:
        with torch.no_grad():
            for _ in range(3):
                module(x + 0.1 * torch.randn_like(x))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
