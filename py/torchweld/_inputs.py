"""What callers say about the inputs of a module, and its translation for the compiler."""

import collections.abc
import operator

import torch

from . import _C

DTYPE_NAMES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8, "b8": torch.bool,
    "fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "double": torch.float64,
    "float": torch.float32, "half": torch.float16, "float64": torch.float64, "float32": torch.float32,
    "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64, "int32": torch.int32,
    "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip


def to_dtype(value, what):
    """A torch.dtype, from itself or from a name ("f16", "half", "float16")."""
    if isinstance(value, torch.dtype):
        return value
    if isinstance(value, str) and value in DTYPE_NAMES:
        return DTYPE_NAMES[value]
    raise ValueError(
        f"{what}: {value!r} is not a dtype; give a torch.dtype such as torch.float16, or a name such as 'f16'"
    )


class Input:
    """One tensor argument: a fixed shape, `Input((1, 3, 224, 224))`, or a range of shapes with the one to tune for,
    `Input(min_shape=.., opt_shape=.., max_shape=..)`.

    dtype: of the tensors that callers will pass; None means the dtype of the module's first floating-point parameter,
    and torch.float32 if it has none. format: torch.channels_last when callers will pass such tensors. name: used in
    messages.
    """

    def __init__(
        self,
        shape=None,
        *,
        min_shape=None,
        opt_shape=None,
        max_shape=None,
        dtype=None,
        format=torch.contiguous_format,
        name="",
    ):
        ranges = {"min_shape": min_shape, "opt_shape": opt_shape, "max_shape": max_shape}
        given = [key for key, value in ranges.items() if value is not None]
        if shape is not None and given:
            raise ValueError(
                f"Input: shape and {given[0]} were both given; give shape alone for a fixed shape, or "
                "min_shape, opt_shape and max_shape for a range"
            )
        if shape is None and not given:
            raise ValueError("Input: no shape was given; give shape, or min_shape, opt_shape and max_shape")
        if shape is None and len(given) < 3:
            missing = next(key for key in ranges if key not in given)
            raise ValueError(f"Input: {missing} is missing; a range needs min_shape, opt_shape and max_shape")
        if shape is not None:
            ranges = dict.fromkeys(ranges, shape)
        self.name = str(name)
        self.min_shape, self.opt_shape, self.max_shape = (self._to_shape(key, value) for key, value in ranges.items())
        self._check_range()
        self.dtype = None if dtype is None else to_dtype(dtype, "Input: dtype")
        if format not in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
            raise ValueError(f"Input: format is {format}; it must be torch.contiguous_format or torch.channels_last")
        rank = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(format)
        if rank and len(self.min_shape) != rank:
            raise ValueError(
                f"Input: format {format} is for tensors of {rank} dimensions and the shape has "
                f"{len(self.min_shape)}; leave format out, or correct the shape"
            )
        self.format = format
        self.example = None

    @classmethod
    def from_tensor(cls, tensor):
        """An input of exactly this shape, dtype and layout; the tensor is kept as example."""
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"Input.from_tensor: got a {type(tensor).__name__}; give a tensor")
        layout = torch.contiguous_format
        for candidate, rank in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
            if tensor.dim() == rank and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=candidate):
                layout = candidate
        made = cls(tuple(tensor.shape), dtype=tensor.dtype, format=layout)
        made.example = tensor.detach()
        return made

    def _label(self):
        return f"Input {self.name!r}" if self.name else "Input"

    def _to_shape(self, key, value):
        if isinstance(value, int) or not isinstance(value, collections.abc.Iterable):
            raise TypeError(f"{self._label()}: {key} is {value!r}; give a tuple of sizes such as (1, 3, 224, 224)")
        sizes = []
        for size in value:
            if isinstance(size, bool) or not hasattr(size, "__index__"):
                raise TypeError(f"{self._label()}: {key} holds {size!r}; sizes are integers")
            sizes.append(operator.index(size))
        for size in sizes:
            if size < 1:
                raise ValueError(
                    f"{self._label()}: {key} {tuple(sizes)} has a dimension of size {size}; every size must "
                    "be 1 or more"
                )
        return tuple(sizes)

    def _check_range(self):
        low, best, high = self.min_shape, self.opt_shape, self.max_shape
        if not len(low) == len(best) == len(high):
            raise ValueError(
                f"{self._label()}: min_shape {low}, opt_shape {best} and max_shape {high} have different "
                "numbers of dimensions; give the same number in each"
            )
        for axis, (a, b, c) in enumerate(zip(low, best, high, strict=False)):
            if a > c:
                raise ValueError(
                    f"{self._label()}: min_shape {low} is larger than max_shape {high} in dimension {axis} "
                    f"({a} > {c}); exchange them"
                )
            if not a <= b <= c:
                raise ValueError(
                    f"{self._label()}: opt_shape {best} lies outside min_shape {low} .. max_shape {high} in "
                    f"dimension {axis} ({b} is not in {a}..{c}); choose a size in between"
                )

    def __repr__(self):
        dtype = f", dtype={self.dtype}" if self.dtype else ""
        if self.min_shape == self.max_shape:
            return f"Input({self.min_shape}{dtype})"
        return f"Input(min_shape={self.min_shape}, opt_shape={self.opt_shape}, max_shape={self.max_shape}{dtype})"

    def _to_native(self):
        native = _C.Input()
        native.min_shape, native.opt_shape, native.max_shape = self.min_shape, self.opt_shape, self.max_shape
        native.dtype = self.dtype
        native.channels_last = self.format != torch.contiguous_format
        native.name = self.name
        if self.example is not None:
            native.example = self.example
        return native


def parse_input(text):
    """An Input from text: "(1,3,224,224)@f16", or "[(min);(opt);(max)]@f32"; without @ the dtype is the module's."""
    body, at, dtype = text.strip().partition("@")
    body = body.strip()
    parts = body[1:-1].split(";") if body.startswith("[") and body.endswith("]") else [body]
    shapes = []
    for part in parts:
        part = part.strip()
        if not (part.startswith("(") and part.endswith(")")):
            raise ValueError(
                f"input {text!r}: {part!r} is not a shape; write (1,3,224,224)@f32, or "
                "[(min);(opt);(max)]@f32 for a range; arguments that are no tensors cannot be given on the command line"
            )
        try:
            shapes.append(tuple(int(size) for size in part[1:-1].split(",") if size.strip()))
        except ValueError:
            raise ValueError(f"input {text!r}: {part!r} holds something that is not a whole number") from None
    dtype = to_dtype(dtype.strip(), f"input {text!r}") if at else None
    if len(shapes) == 1:
        return Input(shapes[0], dtype=dtype)
    if len(shapes) == 3:
        return Input(min_shape=shapes[0], opt_shape=shapes[1], max_shape=shapes[2], dtype=dtype)
    raise ValueError(f"input {text!r}: a range has three shapes, [(min);(opt);(max)], and this has {len(shapes)}")


class Arguments:
    """The inputs of a call as the compiler wants them: args and kwargs with a placeholder where each tensor belongs."""

    def __init__(self, inputs):
        self.natives, self.placeholders, self.specs = [], [], []
        if isinstance(inputs, (torch.Tensor, Input)):
            inputs = [inputs]
        if isinstance(inputs, dict):
            self.args, self.kwargs = (), {key: self._replace(value, key) for key, value in inputs.items()}
        elif isinstance(inputs, (list, tuple)):
            self.args, self.kwargs = tuple(self._replace(x, f"inputs[{i}]") for i, x in enumerate(inputs)), {}
        else:
            raise TypeError(
                f"inputs is a {type(inputs).__name__}; give a list with one entry for each argument, or a dict "
                "by argument name"
            )

    def _replace(self, value, path):
        if isinstance(value, torch.Tensor):
            value = Input.from_tensor(value)
        if isinstance(value, Input):
            placeholder = torch.empty(0)
            self.placeholders.append(placeholder)
            self.specs.append(value)
            self.natives.append(value._to_native())
            return placeholder
        if isinstance(value, dict):
            return {key: self._replace(x, f"{path}[{key!r}]") for key, x in value.items()}
        if isinstance(value, (list, tuple)):
            parts = [self._replace(x, f"{path}[{i}]") for i, x in enumerate(value)]
            if hasattr(value, "_fields"):
                return type(value)(*parts)
            return type(value)(parts)
        if value is None or isinstance(value, (bool, int, float, complex, str, torch.device, torch.dtype)):
            return value
        raise TypeError(
            f"{path} is a {type(value).__name__}; inputs are torchweld.Input, tensors, plain values, and "
            "lists, tuples and dicts of these"
        )


def bind_call(inputs):
    """(args, kwargs) of a real call, from a tensor, a list of arguments or a dict by argument name."""
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, dict):
        return (), dict(inputs)
    if isinstance(inputs, (list, tuple)):
        return tuple(inputs), {}
    raise TypeError(
        f"inputs is a {type(inputs).__name__}; give a list with one entry for each argument, or a dict by argument name"
    )


def random_tensor(spec, device):
    """Random data for an Input: normal floats, zeros and ones for integers (valid as any index)."""
    dtype = spec.dtype or torch.float32
    if dtype.is_floating_point:
        return torch.randn(spec.opt_shape, device=device).to(dtype)
    return torch.randint(0, 2, spec.opt_shape, device=device).to(dtype)
