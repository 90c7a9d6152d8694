"""Random TorchScript programs: views, in-place writes, lists, dicts, branches and loops in any mixture.

A program is grown line by line. A line with which it fails in Python on the example inputs is left out, so all run.
Operators whose schema hides that they may return their argument (type_as) are not here: LibTorch's own executor goes
wrong with them.
"""

import random

import torch
from torch.utils._python_dispatch import TorchDispatchMode

UNARY = [
    "torch.relu({a})", "torch.sigmoid({a})", "torch.tanh({a})", "{a} * 0.5 + 1.0", "-{a}", "torch.abs({a})",
    "torch.softmax({a}, -1)", "{a}.clone()", "{a}.contiguous()", "torch.nn.functional.gelu({a})", "{a}.detach()",
    "torch.clamp({a}, -1.0, 1.0)", "torch.zeros_like({a})", "torch.layer_norm({a}, [{a}.size(-1)])", "{a}.double()",
    "torch.cumsum({a}, 0)", "{a} / (1.0 + torch.abs({a}))", "torch.ones([{a}.size(0), 2], dtype={a}.dtype)",
    "torch.zeros({a}.size(0), 4, dtype={a}.dtype)", "{a}.new_zeros([2, {a}.size(-1)])",
]  # fmt: skip
VIEWS = [
    "{a}.transpose(0, -1)", "{a}[0]", "{a}[1:]", "{a}[:, ::2]", "{a}.view(-1)", "{a}.reshape(-1)", "{a}.unsqueeze(0)",
    "{a}.flatten(0, 1)", "torch.chunk({a}, 2, 0)[0]", "{a}.narrow(0, 0, 1)", "{a}.select(-1, 0)", "{a}.squeeze(0)",
    "{a}.expand(2, -1, -1)", "{a}.view({a}.size(0), -1)", "{a}.permute(1, 0)", "{a}[..., 1]", "{a}.t()",
    "torch.unbind({a}, 0)[0]", "{a}.expand_as({b})",
]  # fmt: skip
BINARY = [
    "{a} + {b}", "{a} * {b}", "{a} - 0.5 * {b}", "torch.maximum({a}, {b})", "torch.where({a} > {b}, {a}, {b})",
    "torch.matmul({a}, {b}.transpose(-1, -2))", "torch.cat([{a}, {b}], 0)", "torch.stack([{a}, {b}])",
    "torch.nn.functional.linear({a}, {b})", "{a} * float({b}.size(0))",
]  # fmt: skip
REDUCE = ["{a}.sum(0)", "{a}.mean(-1, keepdim=True)", "{a}.amax(0)", "{a}.sum()", "{a}.std(-1, unbiased=False)"]
IN_PLACE = [
    "{a}.add_({b})", "{a}.mul_(0.5)", "{a}.relu_()", "{a}[0] = 0.25", "{a}[1:] += 1.0", "{a}[:, 0] = {b}[:, 0]",
    "{a}.copy_({b})", "{a}.zero_()", "{a}.clamp_(-1.0, 1.0)", "{a}.masked_fill_({b} > 0.0, 0.5)", "{a} += {b}",
    "{a}.view(-1).mul_(0.5)", "{a}.transpose(0, -1).add_(0.125)", "{a}[{n}:].zero_()", "{a}.unsqueeze_(0)",
    "{a} *= 0.5", "{a}[0].copy_({b}[0])", "{a}.fill_(0.5)", "torch.sigmoid_({a})",
    "{a}[0] = {b}[0]", "{a}[:, 1:3] = torch.tanh({b}[:, 1:3])", "{a}[{b} > 0.0] = 0.5",
]  # fmt: skip
NUMBERS = ["{a}.size(0)", "{a}.dim()", "n + 1", "{n} * 2", "min({n}, 3)", "len({l})", "{a}.numel() // 2"]
LISTS = ["{l}.append({a})", "{l}[0] = {a}", "{l}.insert(0, {a})", "{l} = [{a}, {b}]", "{l} += [{a}]", "{l}.reverse()"]
FROM_LISTS = ["{l}[0]", "{l}[-1]", "torch.cat({l}, 0)", "torch.stack({l})", "{l}[0] + {l}[-1]", "{l}[{n}]"]
DICTS = ['{d}["x"] = {a}', '{d}["y"] = {a}', '{d} = {{"x": {a}, "y": {b}}}', '{d}["x"].mul_(0.5)']
FROM_DICTS = ['{d}["x"]', '{d}["x"] + {d}["y"]', "list({d}.values())[0]"]
# The sum of a normalised tensor is zero up to rounding, which must not decide.
CONDITIONS = ["flag", "not flag", "n > 2", "{n} > 2", "bool({a}.sum() > 0.03)", "{a}.size(0) > 2", "{a}.dim() == 2"]
LOOPS = [
    "for i in range(2):",
    "for i in range(n):",
    "for i in range({a}.size(0)):",
    "for t in {l}[:]:",
    "while {n} < 0:",
]


class Program:
    """`source` is TorchScript: def f(x, y, z, flag, n) -> a tuple of tensors and a list of tensors."""

    def __init__(self, seed, lines=14):
        self.random = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        self.dtype = self.random.choice([torch.float64, torch.float64, torch.float32])
        rows, columns = self.random.choice([(3, 4), (4, 4), (2, 6), (5, 2)])
        shapes = [(rows, columns), self.random.choice([(rows, columns), (1, columns), (columns,)]), (2, rows, columns)]
        self.inputs = [torch.randn(s, generator=generator, dtype=self.dtype) for s in shapes]
        self.inputs += [self.random.random() < 0.5, self.random.randrange(4)]
        self.counter = 0
        self.env = dict(zip(("x", "y", "z", "flag", "n"), clones(self.inputs), strict=True), torch=torch)
        self.body = []
        self.add("l0 = [x, y]")
        self.add('d0 = {"x": x, "y": z}')
        self.add("m0 = x.size(0)")
        while len(self.body) < lines:
            self.add(self.statement(depth=0))
        tensors = [name for name, v in self.env.items() if isinstance(v, torch.Tensor) and name not in ("i", "t")]
        results = self.random.sample(tensors, min(4, len(tensors)))
        lines = [*"\n".join(self.body).splitlines(), f"return ({', '.join(results)}, l0, d0['x'])"]
        head = "def f(x: Tensor, y: Tensor, z: Tensor, flag: bool, n: int):\n"
        self.source = head + "".join(f"    {line}\n" for line in lines)

    def add(self, code):
        """Appends the line when the program still runs with it, and its tensors stay small."""
        try:
            env = run_lines([*self.body, code], self.inputs)
        except Exception:
            return
        sizes = [v.numel() for v in env.values() if isinstance(v, torch.Tensor)]
        if max(sizes) > 4000 or any(isinstance(v, list) and len(v) > 12 for v in env.values()):
            return
        self.body.append(code)
        self.env = env

    def pick(self, kind, floating=True):
        names = [
            name
            for name, v in self.env.items()
            if isinstance(v, kind) and not isinstance(v, bool) and name not in ("i", "t", "n")
        ]
        if kind is torch.Tensor and floating:
            names = [name for name in names if self.env[name].is_floating_point()]
        return self.random.choice(names)

    def fill(self, template):
        a, b = self.pick(torch.Tensor), self.pick(torch.Tensor)
        return template.format(a=a, b=b, l=self.pick(list), d=self.pick(dict), n=self.pick(int))

    def new(self, letter):
        self.counter += 1
        return f"{letter}{self.counter}"

    def statement(self, depth):
        choose = self.random.choice
        roll = self.random.random()
        target = self.new("v") if depth == 0 else self.pick(torch.Tensor)
        if roll < 0.30:
            return f"{target} = {self.fill(choose(choose([UNARY, BINARY, BINARY, REDUCE])))}"
        if roll < 0.45:
            return f"{target} = {self.fill(choose(VIEWS))}"
        if roll < 0.63:
            return self.fill(choose(IN_PLACE))
        if roll < 0.68:
            return f"{self.new('m') if depth == 0 else self.pick(int)} = {self.fill(choose(NUMBERS))}"
        if roll < 0.75:
            return self.fill(choose(choose([LISTS, DICTS])))
        if roll < 0.82:
            return f"{target} = {self.fill(choose(choose([FROM_LISTS, FROM_DICTS])))}"
        if depth == 2:
            return self.fill(choose(IN_PLACE))
        head = self.fill(choose(LOOPS)) if roll > 0.91 else f"if {self.fill(choose(CONDITIONS))}:"
        block = [self.statement(depth + 1) for _ in range(self.random.randint(1, 4))]
        if "for t in" in head:
            block.append(f"{self.pick(torch.Tensor)} = t * 0.5")
        lines = [head, *("    " + line for part in block for line in part.splitlines())]
        if head.startswith("if") and self.random.random() < 0.5:
            lines += ["else:", *("    " + line for line in self.statement(depth + 1).splitlines())]
        return "\n".join(lines)


def clones(inputs):
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]


class _NoOverlap(TorchDispatchMode):
    """Refuses writes into elements that the operator reads at other places: what comes of it hangs on the order in
    which LibTorch walks through them."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        written = [a.alias_info is not None and a.alias_info.is_write for a in operator._schema.arguments]
        if written and written[0]:
            for other in args[1:]:
                if isinstance(other, torch.Tensor) and overlap(args[0], other):
                    raise ValueError("reads at other places what it writes")
        return operator(*args, **(kwargs or {}))


def overlap(a, b):
    """True when two tensors share elements and are not the same view."""
    if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr() or a.dtype != b.dtype:
        return False
    places = [(x.storage_offset(), x.expand_as(a).stride()) for x in (a, b)]
    if places[0] == places[1]:
        return False
    numbers = torch.arange(a.untyped_storage().nbytes() // a.element_size())
    sets = [set(numbers.as_strided(x.shape, x.stride(), x.storage_offset()).flatten().tolist()) for x in (a, b)]
    return not sets[0].isdisjoint(sets[1])


def run_lines(lines, inputs):
    env = dict(zip(("x", "y", "z", "flag", "n"), clones(inputs), strict=True), torch=torch)
    with torch.no_grad(), _NoOverlap():
        exec("\n".join(lines), env)
    for name in ("__builtins__", "__warningregistry__"):
        env.pop(name, None)
    return env
