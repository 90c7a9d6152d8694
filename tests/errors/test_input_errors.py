"""Every mistake in describing inputs has a message that says what is wrong and what to change."""

from typing import Tuple

import numpy
import pytest
import torch
import torchweld
from torchweld._inputs import parse_input


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(), "no shape was given; give shape, or min_shape, opt_shape and max_shape"),
        (dict(shape=(1, 3), min_shape=(1, 3)), "shape and min_shape were both given; give shape alone"),
        (
            dict(min_shape=(1, 3), max_shape=(2, 3)),
            "opt_shape is missing; a range needs min_shape, opt_shape and max_shape",
        ),
        (dict(shape=(1, 0, 3)), "shape (1, 0, 3) has a dimension of size 0; every size must be 1 or more"),
        (dict(shape=(1, -1)), "has a dimension of size -1; every size must be 1 or more"),
        (
            dict(min_shape=(4, 3), opt_shape=(4, 3), max_shape=(2, 3)),
            "min_shape (4, 3) is larger than max_shape (2, 3) in dimension 0 (4 > 2); exchange them",
        ),
        (
            dict(min_shape=(1, 3), opt_shape=(9, 3), max_shape=(8, 3)),
            "opt_shape (9, 3) lies outside min_shape (1, 3) .. max_shape (8, 3) in dimension 0 (9 is not in 1..8)",
        ),
        (
            dict(min_shape=(1, 3), opt_shape=(1, 3, 4), max_shape=(1, 3)),
            "have different numbers of dimensions; give the same",
        ),
        (dict(shape=(1, 3), dtype="f17"), "dtype: 'f17' is not a dtype; give a torch.dtype such as torch.float16"),
        (
            dict(shape=(1, 3), format=torch.channels_last),
            "is for tensors of 4 dimensions and the shape has 2; leave format out",
        ),
        (dict(shape=(1, 3), format=torch.preserve_format), "it must be torch.contiguous_format or torch.channels_last"),
        (dict(shape=(1, 0), name="tokens"), "Input 'tokens': min_shape (1, 0) has a dimension of size 0"),
    ],
)
def test_input_values(arguments, words):
    with pytest.raises(ValueError) as caught:
        torchweld.Input(**arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "shape, words",
    [
        (7, "min_shape is 7; give a tuple of sizes such as (1, 3, 224, 224)"),
        ((1, 2.5), "min_shape holds 2.5; sizes are integers"),
        ((True, 2), "min_shape holds True; sizes are integers"),
    ],
)
def test_input_types(shape, words):
    with pytest.raises(TypeError) as caught:
        torchweld.Input(shape)
    assert words in str(caught.value)


def test_from_tensor_wants_a_tensor():
    with pytest.raises(TypeError, match="Input.from_tensor: got a list; give a tensor"):
        torchweld.Input.from_tensor([1, 2])


@pytest.mark.parametrize(
    "text, words",
    [
        ("1,3,224", "'1,3,224' is not a shape; write (1,3,224,224)@f32, or [(min);(opt);(max)]@f32 for a range"),
        ("(1,a)", "'(1,a)' holds something that is not a whole number"),
        ("[(1,3);(2,3)]", "a range has three shapes, [(min);(opt);(max)], and this has 2"),
        ("(1,3)@f99", "'f99' is not a dtype"),
    ],
)
def test_input_text(text, words):
    with pytest.raises(ValueError) as caught:
        parse_input(text)
    assert words in str(caught.value)


def script():
    return torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval())


@pytest.mark.parametrize(
    "arguments, kind, words",
    [
        (dict(), ValueError, "inputs is missing; give a list with one torchweld.Input or tensor for each argument"),
        (
            dict(inputs=[torch.ones(1, 4)], input_signature=[torch.ones(1, 4)]),
            ValueError,
            "they mean the same, give one",
        ),
        (dict(inputs=7), TypeError, "inputs is a int; give a list with one entry for each argument"),
        (
            dict(inputs=[object()]),
            TypeError,
            "inputs[0] is a object; inputs are torchweld.Input, tensors, plain values",
        ),
        (dict(inputs=[]), ValueError, "they do not fit the arguments of forward(); give one entry for each argument"),
        (dict(inputs=[torch.ones(1, 4), 3]), ValueError, "they do not fit the arguments of forward()"),
        (dict(inputs={"y": torch.ones(1, 4)}), ValueError, "they do not fit the arguments of forward()"),
    ],
)
def test_inputs_of_compile(arguments, kind, words):
    with pytest.raises(kind) as caught:
        torchweld.compile(script(), **arguments)
    assert words in str(caught.value)


def test_example_on_another_device():
    with pytest.raises(ValueError) as caught:
        torchweld.compile(script(), [torch.empty(1, 4, device="meta")])
    assert "inputs[0] is on meta and the module runs on cpu; move the tensor there" in str(caught.value)


def test_shape_that_the_module_does_not_take():
    """Nothing runs at compile, which reports what it finds: a call may still have other shapes. The call raises."""
    net = script()
    with pytest.warns(
        UserWarning,
        match="no engine was made, and the module runs as before: aten::linear at .*: linear: x \\[1, 5\\] does not",
    ):
        compiled = torchweld.compile(net, [torchweld.Input((1, 5))])
    report = torchweld.explain(compiled)
    assert report.engines == [] and report.fallbacks[0].op == "aten::linear"
    with pytest.raises(RuntimeError, match="1x5 and 4x4"):
        compiled(torch.ones(1, 5))
    torch.testing.assert_close(compiled(torch.ones(2, 4)), net(torch.ones(2, 4)))


def test_module_with_an_engine_is_no_warning(recwarn):
    torchweld.compile(script(), [torchweld.Input((1, 4))])
    assert not [w for w in recwarn if "no engine was made" in str(w.message)]


def test_sizes_of_other_libraries():
    assert torchweld.Input(numpy.array([1, 3])).max_shape == (1, 3)
    with pytest.raises(TypeError, match="holds 1.5; sizes are integers"):
        torchweld.Input((1.5, 3))


def test_more_elements_than_memory_holds():
    rows = torchweld.Input(min_shape=(1, 8), opt_shape=(2, 8), max_shape=(2**62, 8), name="rows")
    with pytest.raises(ValueError, match=r"input 0 \(rows\): no memory holds max_shape \[4611686018427387904, 8\]"):
        torchweld.compile(torch.jit.script(torch.nn.Linear(8, 8).eval()), [rows])


def test_forward_hooks_are_not_lost():
    net = torch.nn.Linear(4, 4).eval()
    net.register_forward_hook(doubled)
    with pytest.raises(ValueError, match="has forward hooks, which would be lost.*script a module that calls this one"):
        torchweld.compile(torch.jit.script(net), [torch.ones(2, 4)])
    around = torch.jit.script(torch.nn.Sequential(net))
    compiled = torchweld.compile(around, [torch.ones(2, 4)], min_block_size=1)
    assert torch.allclose(compiled(torch.ones(2, 4)), around(torch.ones(2, 4)))


def doubled(self, x: Tuple[torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    return y * 2
