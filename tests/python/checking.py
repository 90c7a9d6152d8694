"""What tests of whole modules share: compiling, comparing with eager, operators of another library."""

import contextlib
import copy

import torch
import torchweld
from torch import nn


def compiled_of(net, inputs, **options):
    script = net if isinstance(net, torch.jit.ScriptModule) else torch.jit.script(net.eval())
    options = dict(min_block_size=1, optimization_level=0) | options
    compiled = torchweld.compile(script, inputs, **options)
    defects = [f.reason for f in torchweld.explain(compiled).fallbacks if "internal error" in f.reason]
    assert not defects, defects
    return compiled


def same(actual, expected, where="output"):
    """Equal in structure, types and numbers."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(actual, torch.Tensor) and actual.dtype == expected.dtype, where
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, msg=lambda text: f"{where}: {text}")
    elif isinstance(expected, dict):
        assert isinstance(actual, dict) and list(actual) == list(expected), where
        for key in expected:
            same(actual[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert isinstance(actual, (list, tuple)) and len(actual) == len(expected), where
        assert isinstance(actual, tuple) == isinstance(expected, tuple), where
        assert getattr(actual, "_fields", None) == getattr(expected, "_fields", None), where
        for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
            same(a, e, f"{where}[{i}]")
    else:
        assert type(actual) is type(expected) and actual == expected, where


def check(net, *calls, engines=1, **options):
    """Compiles for the first of `calls`; all of them, made twice, give what eager gives and leave what eager leaves."""
    net = net.eval()
    compiled = compiled_of(copy.deepcopy(net), copy.deepcopy(calls[0]), **options)
    report = torchweld.explain(compiled)
    assert len(report.engines) >= engines, report.text
    with torch.no_grad():
        for call in (*calls, *calls):
            ours, theirs = copy.deepcopy(call), copy.deepcopy(call)
            same(compiled(*ours), net(*theirs))
            same(ours, theirs, "input")
    return compiled, report


def block(x):
    return torch.relu(x * 2.0 + 1.0) - 0.5


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


RANGE = torchweld.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(64, 4))


# TorchScript knows operators in Python by id(): one that is gone would leave its id, and its meaning, to any object.
_KEPT = []


@contextlib.contextmanager
def operators(*schemas, **functions):
    """Operators of a namespace for tests: CPU kernels by name, "meta_NAME" for what they say of types."""
    library = torch.library.Library("torchweld_tests", "FRAGMENT")
    try:
        for schema in schemas:
            library.define(schema)
        for name, function in functions.items():
            key = "Meta" if name.startswith("meta_") else "CPU"
            library.impl(name.removeprefix("meta_"), function, key)
        yield torch.ops.torchweld_tests
    finally:
        _KEPT.extend(vars(torch.ops.torchweld_tests).values())
        library._destroy()
