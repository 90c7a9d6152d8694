"""Every option of compile() is checked, and what cannot be honoured raises."""

import warnings

import pytest
import torch
import torchweld

X = torch.ones(1, 4)


def script():
    return torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval())


@pytest.mark.parametrize(
    "option, value, kind, words",
    [
        ("enabled_precisions", set(), ValueError, "enabled_precisions is empty; name at least one dtype"),
        ("enabled_precisions", {"fp13"}, ValueError, "enabled_precisions: 'fp13' is not a dtype"),
        ("enabled_precisions", {torch.int8}, ValueError, "8-bit precision does not exist in this version"),
        (
            "enabled_precisions",
            {torch.float64},
            ValueError,
            "supported are torch.float32, torch.half and torch.bfloat16",
        ),
        ("enabled_precisions", 16, TypeError, "enabled_precisions is 16; give a set of dtypes"),
        ("device", "tpu", ValueError, 'device is \'tpu\'; give "cpu", "cuda", "cuda:0" or a torch.device'),
        ("device", "meta", ValueError, 'Torchweld runs on "cpu" and "cuda"'),
        ("device", "cuda:99", RuntimeError, 'device is "cuda:99" but torch finds'),
        ("min_block_size", 0, ValueError, "min_block_size is 0; it must be 1 or more"),
        ("min_block_size", "3", TypeError, "min_block_size is '3'; it must be of type int"),
        ("require_full_compilation", 1, TypeError, "require_full_compilation is 1; it must be of type bool"),
        ("torch_executed_ops", "aten::relu", TypeError, "torch_executed_ops is 'aten::relu'; give a list"),
        ("torch_executed_ops", ["relu"], ValueError, 'write the operator with its namespace, as in "aten::relu"'),
        ("torch_executed_modules", [3], TypeError, "torch_executed_modules holds 3; give names as text"),
        ("workspace_size", -1, ValueError, "workspace_size is -1; give a number of bytes, or 0"),
        ("optimization_level", 6, ValueError, "optimization_level is 6; it must be 0 to 5"),
        ("outside_range", "panic", ValueError, 'outside_range is "panic"; it must be "torch", "error" or "build"'),
        ("max_cached_plans", 0, ValueError, "max_cached_plans is 0; it must be 1 or more"),
        ("truncate_long_and_double", True, ValueError, "is not needed, int64 and float64 are computed as they are"),
        ("calibrator", object(), ValueError, "calibrator: 8-bit calibration does not exist in this version"),
        ("methods", (), ValueError, "methods is empty; name at least one method"),
        ("methods", ("fly",), ValueError, "the module has no method 'fly'"),
        ("progress", 5, TypeError, "progress is a int; give a function of (text, share)"),
    ],
)
def test_option(option, value, kind, words):
    with pytest.raises(kind) as caught:
        torchweld.compile(script(), [X], **{option: value})
    assert words in str(caught.value)


def test_unknown_option():
    with pytest.raises(TypeError, match="unexpected keyword argument 'sparse_weights'"):
        torchweld.compile(script(), [X], sparse_weights=True)


def test_not_a_module():
    with pytest.raises(TypeError, match="module is a function; give a ScriptModule, a ScriptFunction or an nn.Module"):
        torchweld.compile(lambda x: x, [X])


def test_module_that_cannot_be_scripted():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return eval("x + 1")

    with pytest.raises(ValueError) as caught:
        torchweld.compile(Odd().eval(), [X])
    assert "Odd is not TorchScript and torch.jit.script cannot make it so; trace it" in str(caught.value)


@pytest.mark.parametrize("scripted", [False, True])
def test_training_mode_warns_and_leaves_the_module_alone(scripted):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    net = torch.jit.script(net) if scripted else net
    with pytest.warns(UserWarning, match="the module is in training mode; a copy in eval mode is compiled"):
        compiled = torchweld.compile(net, [X])
    assert net.training and not compiled.training
    torch.testing.assert_close(compiled(X), net.eval()(X))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_module_and_input_on_different_devices():
    with pytest.raises(
        ValueError, match="inputs\\[0\\] is on cuda:0 and the module runs on cpu; move the tensor there"
    ):
        torchweld.compile(script(), [X.cuda()])


def test_explain_and_warm_up_want_a_compiled_module():
    with pytest.raises(TypeError, match="explain got a Linear; give a module that torchweld.compile returned"):
        torchweld.explain(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="warm_up got a Linear"):
        torchweld.warm_up(torch.nn.Linear(1, 1), X)
    with pytest.raises(ValueError, match="this module was not compiled by Torchweld"):
        torchweld.warm_up(script(), X)
    around = torch.jit.script(torch.nn.Sequential(torchweld.compile(script(), [X])))
    with pytest.raises(ValueError, match="not the whole; pass one of these: 0$"):
        torchweld.explain(around)
    torchweld.warm_up(around, X)


def test_full_compilation_names_what_stays():
    def unique_sum(x: torch.Tensor):
        return torch.unique(torch.relu(x) * 2 + 1).sum()

    with pytest.raises(ValueError) as caught:
        torchweld.compile(torch.jit.script(unique_sum), [X], require_full_compilation=True)
    assert "unique" in str(caught.value)


def test_exception_in_progress_cancels():
    class Stop(Exception):
        pass

    def stop(what, share):
        raise Stop(what)

    with pytest.raises(Stop):
        torchweld.compile(script(), [X], progress=stop)


@pytest.mark.parametrize("path", ["{here}", "{here}/missing/timings.txt"])
def test_timing_cache_that_cannot_be_written(tmp_path, path):
    """Said before the work."""
    path, told = path.format(here=tmp_path), []
    with pytest.raises(ValueError) as caught:
        torchweld.compile(script(), [X], timing_cache=path, progress=lambda what, share: told.append(what))
    assert f"the timing cache cannot be written to {path} (" in str(caught.value)
    assert not [what for what in told if "building" in what] and list(tmp_path.iterdir()) == []


def test_timing_cache_that_cannot_be_written_any_more(tmp_path):
    """The module is worth more than its timings."""
    net, folder = script(), tmp_path / "gone"

    def compile_and_remove():
        folder.mkdir()
        remove = lambda what, share: what.startswith("building") and folder.exists() and folder.rmdir()
        return torchweld.compile(net, [X], timing_cache=folder / "timings.txt", progress=remove)

    with pytest.warns(UserWarning, match="the timing cache cannot be written to .*gone/timings.txt"):
        compiled = compile_and_remove()
    torch.testing.assert_close(compiled(X), net(X))
    # Where warnings are errors it is one of Python, as every warning is.
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="the timing cache cannot"):
        warnings.simplefilter("error")
        compile_and_remove()


@pytest.mark.parametrize("kind", ["function", "frozen"])
def test_what_has_no_mode_is_not_in_training(kind, recwarn):
    module = torch.jit.freeze(script()) if kind == "frozen" else torch.jit.trace(lambda x: torch.relu(x * 2) + 1, X)
    torchweld.compile(module, [X])
    assert not [w for w in recwarn if "training" in str(w.message)]


class Named(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.ReLU())
        self.head = torch.nn.Linear(4, 2)
        self.same = torch.nn.Identity()

    def forward(self, x):
        return self.same(self.head(self.body(x)))

    @torch.jit.export
    def encode(self, x):
        return torch.tanh(self.body(x))


def compile_left(method, **options):
    module = torch.jit.script(Named().eval())
    return getattr(torchweld, method)(
        torch.jit.freeze(module) if options.pop("frozen", False) else module, [X], **options
    )


@pytest.mark.parametrize("method", ["compile", "dry_run"])
@pytest.mark.parametrize(
    "options, words",
    [
        (
            dict(torch_executed_ops=["aten::rely"]),
            "ops names aten::rely, and the module has no such operator; .* aten::relu",
        ),
        (dict(torch_executed_ops=["aten::tanh"]), "ops names aten::tanh, .* no such operator"),  # not compiled
        (dict(torch_executed_modules=["haed"]), "modules names haed, .* no such module; the nearest are head, "),
        (dict(torch_executed_modules=["body.7"]), "modules names body.7, .*; the nearest are body.0, body.1, body.2, "),
        (dict(torch_executed_modules=[torch.nn.Conv2d]), "names torch.nn.modules.conv.Conv2d, .* no such module"),
    ],
)
def test_rule_that_names_nothing_is_a_warning(method, options, words):
    with pytest.warns(UserWarning, match=words) as caught:
        compile_left(method, **options)
    assert len([w for w in caught if "and the module has no such" in str(w.message)]) == 1


@pytest.mark.parametrize(
    "options",
    [
        dict(torch_executed_ops=["aten::relu", "aten::lin*", torch.ops.aten.dropout.default]),
        dict(torch_executed_ops=["aten::tanh"], methods=["forward", "encode"]),
        dict(torch_executed_modules=["head", "body", "body.*", "same", torch.nn.Linear, torch.nn.Dropout]),
        dict(torch_executed_ops=["aten::relu"], torch_executed_modules=["head", torch.nn.Linear], frozen=True),
    ],
)
def test_rule_that_names_something_is_no_warning(options, recwarn):
    compile_left("compile", **options)
    assert not [str(w.message) for w in recwarn if "and the module has no such" in str(w.message)]
