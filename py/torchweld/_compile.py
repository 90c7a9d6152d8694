"""compile() and its relatives: checks what the caller gave, translates it, and calls the C++ interface."""

import copy
import os
import warnings
import zipfile

import torch

from . import _C
from ._inputs import Arguments, bind_call, to_dtype


def compile(
    module,
    inputs=None,
    *,
    input_signature=None,
    enabled_precisions={torch.float32},
    device=None,
    min_block_size=3,
    require_full_compilation=False,
    torch_executed_ops=(),
    torch_executed_modules=(),
    truncate_long_and_double=False,
    disable_tf32=False,
    workspace_size=0,
    optimization_level=3,
    timing_cache=None,
    outside_range="torch",
    max_cached_plans=16,
    cuda_graphs=True,
    calibrator=None,
    methods=("forward",),
    progress=None,
):
    """Compiles a TorchScript module; returns a TorchScript module that is called, saved and loaded like any other.

    module: a ScriptModule or ScriptFunction; an nn.Module is scripted first. It is not changed.
    inputs: one entry for each argument: Input, a tensor (its exact shape), a plain value, or a list, tuple or dict of
        these; or a dict by argument name. input_signature is another name for it.
    enabled_precisions: dtypes that kernels may compute in beside the module's own: torch.half, torch.bfloat16.
    device: where the module runs; default: where its weights are.
    min_block_size: a part with fewer operator calls stays in LibTorch.
    require_full_compilation: raise, with all reasons, when a tensor operation would stay in LibTorch.
    torch_executed_ops: operators that stay in LibTorch, "aten::relu" (its in-place form
        means the same); an asterisk matches any text.
    torch_executed_modules: module classes, or instance paths such as "layer1.0", that stay in LibTorch.
    truncate_long_and_double: True raises; int64 and float64 are computed as they are.
    disable_tf32: compute float32 on CUDA without TF32.
    workspace_size: largest workspace of a kernel in bytes; 0 chooses.
    optimization_level: 0 chooses kernels by rules, nothing is run; 1..5 by timing those that models of their time
        expect to be among the fastest, ever longer.
        From 3 on, a segment that LibTorch was measured to run faster is left to it; the report says so.
    timing_cache: a text file of timings, read before and written after.
    outside_range: a call outside the ranges runs in LibTorch ("torch"), raises ("error"), or is planned ("build").
    max_cached_plans: plans kept per engine.
    cuda_graphs: record each plan as a CUDA graph.
    methods: names of the methods to compile, all for these inputs.
    progress: called with (what is being done, share done from 0 to 1); an exception it raises cancels.
    """
    if calibrator is not None:
        raise ValueError(
            "calibrator: 8-bit calibration does not exist in this version of Torchweld; leave it out, and use "
            "enabled_precisions={torch.half} for reduced precision"
        )
    if progress is not None and not callable(progress):
        raise TypeError(f"progress is a {type(progress).__name__}; give a function of (text, share)")
    options = _make_options(locals())
    arguments = _make_arguments(inputs, input_signature)
    script = _to_script(module)
    _check_devices(script, options, arguments)
    result = _C.compile(
        script._c, arguments.args, arguments.kwargs, arguments.natives, arguments.placeholders, options, progress
    )
    return torch.jit._recursive.wrap_cpp_module(result)


def dry_run(
    module,
    inputs=None,
    *,
    input_signature=None,
    enabled_precisions={torch.float32},
    device=None,
    min_block_size=3,
    require_full_compilation=False,
    torch_executed_ops=(),
    torch_executed_modules=(),
    truncate_long_and_double=False,
    methods=("forward",),
):
    """What compile() would do, as a Report, without building anything. Arguments are those of compile()."""
    options = _make_options(locals())
    arguments = _make_arguments(inputs, input_signature)
    script = _to_script(module)
    _check_devices(script, options, arguments)
    return _C.dry_run(script._c, arguments.args, arguments.kwargs, arguments.natives, arguments.placeholders, options)


def explain(compiled):
    """What a compiled module holds, as a Report: engines with their steps, and what stayed in LibTorch and why."""
    _require_script_module(compiled, "explain")
    return _C.explain(compiled._c)


def warm_up(compiled, inputs):
    """Plans every engine for these arguments, as the first calls with them would, and returns when that is done.

    It calls the module some times, so that state which the module keeps goes on; lists and dicts among the inputs stay
    as they are.
    """
    _require_script_module(compiled, "warm_up")
    args, kwargs = bind_call(inputs)
    _C.warm_up(compiled._c, args, kwargs)


def load(path, map_location=None):
    """A compiled module from a file that torch.jit.save wrote, or from a file object.

    As torch.jit.load, but every damaged file is a ValueError, and checksums are verified: torch.jit.load ignores them,
    and an altered weight goes unnoticed. What an intact file misses here (a device, another library's operators) is
    LibTorch's own error.
    """
    named = isinstance(path, (str, os.PathLike))
    if named and not os.path.isfile(path):
        raise FileNotFoundError(f"{os.fspath(path)} does not exist; give the path of a file written by torch.jit.save")
    label = os.fspath(path) if named else "the file"
    _verify_archive(path, label)
    try:
        return torch.jit.load(path, map_location=map_location)
    except Exception as error:
        if any(words in str(error) for words in _NOT_DAMAGE):
            raise
        raise _damaged(label, f"LibTorch said: {error}") from error


# In messages about intact files: a newer engine format, and what this process or machine does not have.
_NOT_DAMAGE = ("newer Torchweld", "Unknown builtin op", "__torch__.torch.classes", "CUDA")


def _verify_archive(file, label):
    """Raises unless `file` is a zip archive whose checksums are right. Leaves a file object where it was."""
    start = None if isinstance(file, (str, os.PathLike)) else file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile has many kinds of errors for nonsense
        raise _damaged(label, f"As an archive: {error or type(error).__name__}") from error
    finally:
        if start is not None:
            file.seek(start)
    if broken is not None:
        raise _damaged(label, f"The checksum of {broken} is wrong")


def _damaged(label, why):
    return ValueError(
        f"{label} cannot be read: it is truncated, altered, or no TorchScript file; save the module again with "
        f"torch.jit.save. {why}"
    )


def _make_arguments(inputs, input_signature):
    if inputs is not None and input_signature is not None:
        raise ValueError("inputs and input_signature were both given; they mean the same, give one")
    inputs = input_signature if inputs is None else inputs
    if inputs is None:
        raise ValueError("inputs is missing; give a list with one torchweld.Input or tensor for each argument")
    return Arguments(inputs)


def _to_script(module):
    """The module as ScriptModule in eval mode; copied where it would have to be changed for that."""
    if isinstance(module, torch.jit.ScriptFunction):
        return torch.jit._recursive.wrap_cpp_module(_C.module_of_function(module))
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; give a ScriptModule, a ScriptFunction or an nn.Module")
    if any(getattr(child, "training", False) for child in module.modules()):
        warnings.warn(
            "the module is in training mode; a copy in eval mode is compiled (call module.eval() before "
            "compile to silence this)",
            stacklevel=3,
        )
        module = copy.deepcopy(module).eval()
    if isinstance(module, torch.jit.ScriptModule):
        return module
    try:
        return torch.jit.script(module)
    except Exception as error:
        name = type(module).__name__
        raise ValueError(
            f"module: {name} is not TorchScript and torch.jit.script cannot make it so; trace it and compile "
            f"the result: torchweld.compile(torch.jit.trace(module, example_inputs), ...). "
            f"torch.jit.script said: {error}"
        ) from error


def _require_script_module(module, what):
    if not isinstance(module, torch.jit.ScriptModule):
        raise TypeError(f"{what} got a {type(module).__name__}; give a module that torchweld.compile returned")


def _make_options(given):
    """The C++ options from the arguments of compile(); those absent keep their defaults."""
    options = _C.Options()
    options.enabled_precisions = _precisions(given["enabled_precisions"])
    options.device = _device_text(given["device"])
    options.timing_cache = os.fspath(given.get("timing_cache") or "")
    options.torch_executed_ops = [_op_name(op) for op in _list_of(given, "torch_executed_ops")]
    options.torch_executed_modules = [_module_name(m) for m in _list_of(given, "torch_executed_modules")]
    options.methods = [_text("methods", name) for name in _list_of(given, "methods")]
    if not options.methods:
        raise ValueError('methods is empty; name at least one method, for example ("forward",)')
    for name, kind in (
        ("truncate_long_and_double", bool),
        ("min_block_size", int),
        ("workspace_size", int),
        ("optimization_level", int),
        ("max_cached_plans", int),
        ("require_full_compilation", bool),
        ("disable_tf32", bool),
        ("cuda_graphs", bool),
        ("outside_range", str),
    ):
        if name not in given:
            continue
        value = given[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise TypeError(f"{name} is {value!r}; it must be of type {kind.__name__}")
        setattr(options, name, value)
    if options.truncate_long_and_double:
        raise ValueError(
            "truncate_long_and_double is True; truncation does not exist in this version of Torchweld and is not "
            "needed, int64 and float64 are computed as they are: leave it out"
        )
    return options


def _list_of(given, name):
    value = given[name]
    if isinstance(value, str) or not isinstance(value, (list, tuple, set, frozenset)):
        raise TypeError(f"{name} is {value!r}; give a list")
    return sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)


def _text(option, value):
    if not isinstance(value, str):
        raise TypeError(f"{option} holds {value!r}; give names as text")
    return value


def _precisions(values):
    if isinstance(values, (str, torch.dtype)):
        values = {values}
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise TypeError(f"enabled_precisions is {values!r}; give a set of dtypes such as {{torch.half}}")
    dtypes = {to_dtype(value, "enabled_precisions") for value in values}
    if torch.int8 in dtypes or torch.uint8 in dtypes:
        raise ValueError(
            "enabled_precisions holds an 8-bit dtype; 8-bit precision does not exist in this version of "
            "Torchweld, supported are torch.float32, torch.half and torch.bfloat16"
        )
    return sorted(dtypes, key=str)


def _device_text(device):
    if device is None:
        return ""
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f'device is {device!r}; give "cpu", "cuda", "cuda:0" or a torch.device') from None
    if parsed.type not in ("cpu", "cuda"):
        raise ValueError(f'device is "{parsed}"; Torchweld runs on "cpu" and "cuda"')
    if parsed.type == "cpu":
        return "cpu"
    count = torch.cuda.device_count()
    index = parsed.index if parsed.index is not None else (torch.cuda.current_device() if count else 0)
    if index >= count:
        found = "torch finds no CUDA device" if count == 0 else f"torch finds {count} CUDA device(s)"
        raise RuntimeError(f'device is "{parsed}" but {found}; choose another device, or "cpu"')
    return f"cuda:{index}"


def _op_name(op):
    if isinstance(op, str):
        if "::" not in op and "*" not in op:
            raise ValueError(
                f'torch_executed_ops holds {op!r}; write the operator with its namespace, as in "aten::relu"'
            )
        return op
    schema = getattr(op, "_schema", None)
    name = schema.name if schema is not None else getattr(op, "_qualified_op_name", None)
    if name is None:
        raise TypeError(f'torch_executed_ops holds {op!r}; give operator names such as "aten::relu"')
    return name


def _module_name(value):
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return _text("torch_executed_modules", value)


def _check_devices(script, options, arguments):
    """Tensors given as inputs must be where the module will run."""
    weights = next((t for t in list(script.parameters()) + list(script.buffers())), None)
    home = options.device or (str(weights.device) if weights is not None else "")
    if not home:
        return
    for i, spec in enumerate(arguments.specs):
        if spec.example is not None and str(spec.example.device) != home:
            label = f"inputs[{i}]" if not spec.name else f"input {spec.name!r}"
            raise ValueError(
                f"{label} is on {spec.example.device} and the module runs on {home}; move the tensor there, "
                "or give a torchweld.Input instead"
            )
