"""Random modules that keep state compiled, beside eager: equal results and equal state, call after call.

FUZZ_MODULES: how many (100); FUZZ_SEED: the first seed (0); FUZZ_SECONDS: stop after this time (45).
`python tests/fuzz/test_modules.py SEED` prints the module of a seed and what becomes of it.
"""

import copy
import os
import pathlib
import random
import sys
import tempfile
import time

import torch
import torchweld

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from test_programs import FIRST_SEED, SECONDS, difference  # noqa: E402

MODULES = int(os.environ.get("FUZZ_MODULES", "100"))
LINES = 14
CALLS = 4

# {new} is a new tensor, {a} and {b} are any; all have four columns. self.seen grows and is cut, the other buffers keep
# their sizes.
STATEMENTS = [
    "{new} = torch.tanh({a}) * 0.5 + {b}.sum(0)",
    "{new} = {a} * 2.0 - 1.0",
    "{new} = torch.sigmoid({a}).exp()",
    "{new} = {a}[{b}.sum(-1)[:1] > 0.1] if {a}.size(0) == 1 else {a}",
    "{new} = {a}[{a}.sum(-1) > 0.1]",
    "{new} = torch.cat([{a}, {b}])",
    "{new} = {a}.topk(1, 1)[0] + {a}",
    "{new} = (({a} @ self.weight).softmax(-1))",
    "{new} = self.mean + {a}",
    "{new} = self.scale * {a}.mean(0, True)",
    "{new} = self.seen.sum(0) + {a}",
    "{new} = self.last\nself.last = {a}.sum(0, True)\n{new} = {new} + self.last",
    "self.mean = self.mean * 0.5 + {a}.sum(0)",
    "self.mean[0] = {a}.sum() * 0.1",
    "self.mean.mul_(0.9)",
    "self.mean.add_({a}.sum(0))",
    "self.scale = {a}.sum(0).relu() + self.mean",
    "self.seen = torch.cat([self.seen, {a}])[-6:]",
    "self.seen[0] = self.mean",
    "self.calls += 1\n{new} = {a} * float(self.calls)",
    "if bool({a}.sum() > 0.0):\n    self.mean = self.mean + 1\n    {new} = {b} + self.mean\nelse:\n    {new} = {a} * 2",
    "for i in range(2):\n    self.mean = torch.tanh(self.mean + {a}.sum(0))",
]


def source_of(seed):
    """A module's class and how small its segments may be."""
    chosen = random.Random(seed)
    names, lines = ["x", "y"], []
    for _ in range(LINES):
        statement = chosen.choice(STATEMENTS)
        new = f"v{len(names)}"
        lines += statement.format(new=new, a=chosen.choice(names), b=chosen.choice(names)).splitlines()
        if "{new}" in statement:
            names.append(new)
    results = chosen.sample(names, min(4, len(names)))
    body = "\n".join(" " * 8 + line for line in lines)
    source = f"""import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.arange(4.0) * 0.1)
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("seen", torch.ones(3, 4))
        self.register_buffer("last", torch.ones(1, 4) * 0.3)
        self.weight = torch.nn.Parameter(torch.eye(4) * 0.7 + 0.1)
        self.calls = 0

    def forward(self, x: torch.Tensor, y: torch.Tensor):
{body}
        return {", ".join(results)}
"""
    return source, chosen.choice([1, 2, 3])


def results_of(module, calls):
    """All that each call returns and leaves in the module's buffers; None when one of them raises."""
    found = []
    with torch.no_grad():
        for inputs in calls:
            try:
                results = module(*(x.clone() for x in inputs))
            except Exception:
                return None
            # In eager, results may be the buffers themselves, which later calls write.
            found += [x.clone() for x in (*results, *dict(module.named_buffers()).values())]
    return found


def check(seed, folder):
    """The reason why the module of this seed is compiled wrongly, with its source; empty when it is right."""
    source, blocks = source_of(seed)
    path = pathlib.Path(folder) / f"module_{seed}.py"
    path.write_text(source)  # torch.jit.script reads it there
    names = {}
    exec(compile(source, str(path), "exec"), names)
    torch.manual_seed(seed)
    net = names["Net"]().eval().double()
    calls = [tuple(torch.randn(rows, 4, dtype=torch.float64) for rows in (3, 5)) for _ in range(CALLS)]
    expected = results_of(copy.deepcopy(net), calls)
    script = torch.jit.script(net)
    by_libtorch = results_of(copy.deepcopy(script), calls)
    if expected is None or by_libtorch is None or difference(expected, by_libtorch, 1e-9):
        return ""  # what LibTorch itself is wrong about
    actual = results_of(torchweld.compile(script, list(calls[0]), min_block_size=blocks, optimization_level=0), calls)
    found = difference(expected, "raised" if actual is None else actual, 1e-9)
    return f"seed {seed}, min_block_size {blocks}: {found}\n{source}" if found else ""


def test_random_modules(tmp_path):
    end = time.monotonic() + SECONDS
    wrong, done = [], 0
    for seed in range(FIRST_SEED, FIRST_SEED + MODULES):
        if time.monotonic() > end:
            break
        done += 1
        if found := check(seed, tmp_path):
            wrong.append(found)
    print(f"{done} modules from seed {FIRST_SEED}")
    assert done > 0 and not wrong, "\n".join(wrong)


if __name__ == "__main__":
    seed = int(sys.argv[1])
    print(source_of(seed)[0])
    print(check(seed, tempfile.mkdtemp()) or "right")
