"""compare(): how far a compiled module is from the original, judged by a run in float64."""

import copy
import dataclasses

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import _C
from ._compile import explain
from ._inputs import bind_call


@dataclasses.dataclass
class OutputError:
    """One tensor of the result. Errors are the largest absolute difference from the float64 run; infinite for a result
    of another shape or dtype than the original's, and where it is no number or infinite and the original is not.
    `difference` says which shapes or dtypes differ, and how many elements are not finite and should be."""

    name: str
    error: float
    eager_error: float
    allowed: float
    index: tuple
    passes: bool
    difference: str = ""

    @property
    def ratio(self):
        """The error over the allowed one: at most 1 when it passes."""
        return 0.0 if self.error == 0 else self.error / max(self.allowed, 1e-300)


@dataclasses.dataclass
class Comparison:
    """What compare() found. `smallest_tolerance` is the smallest atol, with rtol 0, at which the compiled module equals
    the original module."""

    outputs: list
    smallest_tolerance: float
    reference: str

    @property
    def passes(self):
        return all(output.passes for output in self.outputs)

    @property
    def worst(self):
        return max(self.outputs, key=lambda output: output.ratio)

    @property
    def text(self):
        lines = [f"{'output':<24} {'error':>11} {'eager':>11} {'allowed':>11}  at"]
        for o in self.outputs:
            verdict = "" if o.passes else "   TOO FAR"
            lines.append(f"{o.name:<24} {o.error:>11.3g} {o.eager_error:>11.3g} {o.allowed:>11.3g}  {o.index}{verdict}")
            if o.difference:
                lines.append(f"  {o.difference}")
        lines.append(
            f"errors against {self.reference}; smallest tolerance against the original: {self.smallest_tolerance:.3g}"
        )
        return "\n".join(lines)

    def __str__(self):
        return self.text


def compare(module, compiled, inputs, *, precision=None):
    """Runs both modules on `inputs` and both against a float64 run of the original.

    The compiled module passes when each of its outputs is at most twice as far from float64 as the original's, plus two
    rounding units of the dtype at the size of the result. Where float64 gives a result of another shape (another number
    of detections), the original is the reference, and allows no error of its own; elements that are not finite in the
    original or in float64 may be the original's. precision: the reduced dtype that was enabled, torch.half or
    torch.bfloat16; the original is then run in that dtype too, also where it asks for float32 by name if it cannot run
    otherwise (ValueError if it cannot at all). Engines that may compute in TF32 are compared with the original
    run in TF32: the operands of all its products rounded to that format (LibTorch, where TF32 is allowed, takes it for
    some layers and for others not, by the algorithm that cuDNN prefers). In the float64 run all float32 is float64,
    also where the module asks for float32 by name. An original that cannot run so is its own reference, which allows no
    error of its own. Modules must be functional: each is run a few times.
    """
    args, kwargs = bind_call(inputs)
    with torch.no_grad():
        plans = None
        while plans != (plans := _C.finish_planning()):  # else LibTorch ran in the place of a plan in the making
            actual = compiled(*args, **kwargs)
        actual = flatten(actual)
        tf32 = any("tf32" in engine.precision for engine in explain(compiled).engines)
        plain = flatten(module(*args, **kwargs))
        eager = plain
        if precision is not None:
            eager = flatten(_run_reduced(module, precision, args, kwargs))
        elif tf32:
            eager = flatten(_run_in_tf32(module, args, kwargs))
        try:
            exact, reference = flatten(_run_as(module, torch.float64, args, kwargs)), "float64"
        except RuntimeError:
            exact, reference = plain, "the original"
    if [name for name, _ in actual] != [name for name, _ in plain]:
        raise ValueError(
            f"the modules return different structures: {[n for n, _ in plain]} and {[n for n, _ in actual]}"
        )
    rows = zip(actual, plain, eager, exact, strict=True)
    outputs = [_judge(name, a, p.dtype, e, x, precision, tf32) for (name, a), (_, p), (_, e), (_, x) in rows]
    tolerance = max((_distance(a, p)[0] for (_, a), (_, p) in zip(actual, plain, strict=False)), default=0.0)
    return Comparison(outputs, tolerance, reference)


def flatten(value, path="output"):
    """[(name, tensor)] of everything in a nested result; numbers become tensors."""
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    if isinstance(value, dict):
        return [pair for key, x in value.items() for pair in flatten(x, f"{path}[{key!r}]")]
    if isinstance(value, (list, tuple)):
        return [pair for i, x in enumerate(value) for pair in flatten(x, f"{path}[{i}]")]
    if isinstance(value, (bool, int, float)):
        return [(path, torch.tensor(value))]
    return []


class _Instead(TorchDispatchMode):
    """Runs operators in another dtype where they are given float32 tensors or told to make some.

    A module's `to(dtype)` does not reach constants, tensors that are plain attributes and `x.float()`.
    """

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype
        self.twins = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return operator(*_mapped(self.instead, args), **_mapped(self.instead, kwargs or {}))

    def instead(self, value):
        if value is torch.float32:
            return self.dtype
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if id(value) not in self.twins:  # one twin each, so that what is written to it is there when it is read
            self.twins[id(value)] = value, value.to(self.dtype)
        return self.twins[id(value)][1]


def _mapped(function, value):
    """`function` of everything in a nested value that is not a container."""
    if isinstance(value, dict):
        return {key: _mapped(function, x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_mapped(function, x) for x in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return function(value)


def _cast(value, dtype):
    def cast(x):
        return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    return _mapped(cast, value)


def _run_as(module, dtype, args, kwargs, everywhere=True):
    module, args, kwargs = copy.deepcopy(module).to(dtype), _cast(args, dtype), _cast(kwargs, dtype)
    if not everywhere:
        return module(*args, **kwargs)
    with torch.jit.optimized_execution(False), _Instead(dtype):  # a copy shares its optimised code with the original
        return module(*args, **kwargs)


def _run_reduced(module, dtype, args, kwargs):
    try:
        return _run_as(module, dtype, args, kwargs, everywhere=False)
    except RuntimeError:
        pass  # Most often float32 by name beside the reduced dtype.
    try:
        return _run_as(module, dtype, args, kwargs)
    except RuntimeError as error:
        raise ValueError(
            f"the original cannot run in {dtype}, so that there is nothing to judge precision={dtype} by; "
            f"compare without precision, or where the original runs so. It says: {str(error).strip().splitlines()[-1]}"
        ) from error


class _InTf32(TorchDispatchMode):
    """Rounds the float32 operands of products to the 11 significant bits of TF32, ties to even."""

    OPERANDS = {  # which arguments are multiplied with each other
        **dict.fromkeys(("convolution", "mm", "bmm", "mv", "linear", "matmul"), slice(0, 2)),
        **dict.fromkeys(("addmm", "baddbmm", "addmv"), slice(1, 3)),
        **dict.fromkeys(
            ("_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention_for_cpu"), slice(0, 3)
        ),
    }

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        operands = self.OPERANDS.get(operator.overloadpacket.__name__)
        if operands is not None:
            args = list(args)
            args[operands] = [self.rounded(x) for x in args[operands]]
        return operator(*args, **(kwargs or {}))

    @staticmethod
    def rounded(x):
        if x.dtype != torch.float32:
            return x
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


def _run_in_tf32(module, args, kwargs):
    with torch.jit.optimized_execution(False), _InTf32():
        return module(*args, **kwargs)


def _distance(a, b):
    """(largest absolute difference, its index); NaN and infinities are equal to themselves."""
    if a.shape != b.shape:
        return float("inf"), ()
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    gap = (a - b).abs()
    gap[(a == b) | (a.isnan() & b.isnan())] = 0
    gap[gap.isnan()] = float("inf")
    if gap.numel() == 0:
        return 0.0, ()
    flat = int(gap.argmax())
    return float(gap.flatten()[flat]), tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), gap.shape))


def _judge(name, actual, plain_dtype, eager, exact, precision, tf32):
    for ours, theirs in ((actual.dtype, plain_dtype), (_shape(actual), _shape(eager))):
        if ours != theirs:
            difference = f"the compiled module gives {ours} and the original {theirs}"
            return OutputError(name, float("inf"), 0.0, 0.0, (), False, difference)
    difference = ""
    if exact.shape != eager.shape:
        difference = f"float64 gives {_shape(exact)} and the original {_shape(eager)}, which is the reference here"
        exact = eager
    actual, eager, exact = (t.detach().cpu() for t in (actual, eager, exact))
    if lost := int((exact.isfinite() & ~actual.isfinite()).sum()):
        difference = f"{lost} elements are no finite numbers and those of float64 are"
    finite = eager.isfinite() & exact.isfinite()
    judged = finite | ~((eager == actual) | (eager.isnan() & actual.isnan()))
    error, index = _distance(actual.where(judged, 0), exact.where(judged, 0))
    eager_error, _ = _distance(eager.where(finite, 0), exact.where(finite, 0))
    allowed = 2 * eager_error
    dtype = precision or actual.dtype
    if dtype.is_floating_point:
        size = float(exact[finite].double().abs().max()) if finite.any() else 0.0
        unit = 2.0**-10 if tf32 and dtype == torch.float32 else torch.finfo(dtype).eps
        allowed += 2 * unit * size
    return OutputError(name, error, eager_error, allowed, index, error <= allowed, difference)


def _shape(tensor):
    return str(list(tensor.shape))
