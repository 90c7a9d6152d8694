"""Random TorchScript programs compiled, beside eager Python: equal results, and equal inputs where they are written.

FUZZ_PROGRAMS: how many (150); FUZZ_SEED: the first seed (0); FUZZ_SECONDS: stop after this time (45).
`python tests/fuzz/test_programs.py SEED` prints the program of a seed and what becomes of it.
"""

import os
import pathlib
import sys
import time
import warnings

import torch
import torchweld
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from programs import Program, clones  # noqa: E402

PROGRAMS = int(os.environ.get("FUZZ_PROGRAMS", "150"))
FIRST_SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "45"))


def call(function, inputs):
    """What a call returns and leaves in its inputs, or that it raises."""
    inputs = clones(inputs)
    try:
        with torch.no_grad():
            results = tree_leaves(function(*inputs))
    except Exception as error:
        return str(type(error))
    return results + [x for x in inputs if isinstance(x, torch.Tensor)]


def difference(expected, actual, rounding):
    """Why the results are not equal; empty when they are."""
    if isinstance(expected, str) or isinstance(actual, str):
        return "" if expected == actual else f"{expected} became {actual}"
    if len(expected) != len(actual):
        return f"{len(expected)} results became {len(actual)}"
    for i, (e, a) in enumerate(zip(expected, actual, strict=True)):
        if e.shape != a.shape or e.dtype != a.dtype:
            return f"result {i}: {tuple(e.shape)} {e.dtype} became {tuple(a.shape)} {a.dtype}"
        if not torch.allclose(e.double(), a.double(), rtol=rounding, atol=rounding, equal_nan=True):
            return f"result {i} is off by {(e.double() - a.double()).abs().max()}"
    return ""


def resized(inputs):
    """The same arguments with one row more, and other values."""
    grown = [
        torch.cat([x, x.narrow(-2, 0, 1)], -2) if isinstance(x, torch.Tensor) and x.dim() > 1 else x for x in inputs
    ]
    return [x * 0.75 if isinstance(x, torch.Tensor) else x for x in grown]


def check(seed):
    """The reason why the program of this seed is compiled wrongly, with its source; empty when it is right."""
    program = Program(seed)
    function = torch.jit.CompilationUnit(program.source).f
    eager = {"torch": torch, "Tensor": torch.Tensor}
    exec(program.source, eager)
    for blocks in (1, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = torchweld.compile(
                function, program.inputs, min_block_size=blocks, optimization_level=0, outside_range="build"
            )
            # A second call: engines whose sizes depend on data are planned then.
            other = [x * 0.5 - 0.1 if isinstance(x, torch.Tensor) else x for x in program.inputs]
            flipped = [not x if isinstance(x, bool) else x for x in program.inputs]
            for inputs in (program.inputs, program.inputs, other, flipped, resized(program.inputs)):
                rounding = 1e-9 if program.dtype == torch.float64 else 1e-3
                expected = call(eager["f"], inputs)
                if isinstance(expected, str):
                    continue  # TorchScript leaves out lines whose results nothing reads, also where they would raise
                actual = call(compiled, inputs)
                found = difference(expected, actual, rounding)
                # Where LibTorch's own executor is wrong about what a program writes, so are we. It optimises a program
                # at the first and at the second or third call.
                fresh = torch.jit.CompilationUnit(program.source).f
                if found and all(difference(call(fresh, inputs), actual, rounding) for _ in range(3)):
                    return f"seed {seed}, min_block_size {blocks}: {found}\n{program.source}"
    return ""


def test_random_programs():
    end = time.monotonic() + SECONDS
    wrong = []
    done = 0
    for seed in range(FIRST_SEED, FIRST_SEED + PROGRAMS):
        if time.monotonic() > end:
            break
        done += 1
        if found := check(seed):
            wrong.append(found)
    print(f"{done} programs from seed {FIRST_SEED}")
    assert done > 0 and not wrong, "\n".join(wrong)


if __name__ == "__main__":
    seed = int(sys.argv[1])
    program = Program(seed)
    function = torch.jit.CompilationUnit(program.source).f
    print(program.source)
    print(torchweld.explain(torchweld.compile(function, program.inputs, min_block_size=1, optimization_level=0)))
    print(check(seed) or "right")
