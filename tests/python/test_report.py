"""What dry_run() and explain() say: shares, reasons with the user's line, and which settings would merge segments."""

import json

import pytest
import torch
import torchweld


class Chain(torch.nn.Module):
    """Two parts that can be engines, with two operations between them."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.second = torch.nn.Linear(8, 8)

    def forward(self, x):
        x = torch.relu(self.first(x)) + 1.0
        x = torch.sin(x)
        x = torch.cos(x)
        return torch.relu(self.second(x)) * 2.0


class RandomBetween(Chain):
    def forward(self, x):
        x = torch.relu(self.first(x)) + 1.0
        x = torch.bernoulli(torch.sigmoid(x))
        return torch.relu(self.second(x)) * 2.0


def line_of(text):
    with open(__file__) as file:
        return next(i for i, line in enumerate(file, 1) if text in line)


def reports(net, **options):
    """Before and after building: the same but for steps."""
    script = torch.jit.script(net.eval())
    planned = torchweld.dry_run(script, [torch.randn(2, 8)], **options)
    built = torchweld.explain(torchweld.compile(script, [torch.randn(2, 8)], optimization_level=0, **options))
    both = [json.loads(report.to_json()) for report in (planned, built)]
    names = [[engine.pop("name") for engine in data.pop("engines")] for data in both]
    assert both[0] == both[1] and names[0] == names[1]
    tails = [report.text[report.text.index("\nleft to LibTorch") :] for report in (planned, built) if report.fallbacks]
    assert len(set(tails)) < 2
    return built


def test_shares_of_operations_and_flops():
    report = reports(Chain(), torch_executed_ops=["aten::sin"])
    assert (report.operations, report.operations_in_engines) == (8, 7)
    # Each linear layer: 2 x 8 results of 8 products and sums each.
    assert report.flops >= 2 * (2 * 8 * 8 * 2) and 0.9 < report.flops_in_engines < 1
    assert report.text.startswith("2 engines with 7 of 8 operations (87.5 %) and ")
    assert f" {100 * report.flops_in_engines:.1f} % of the FLOPs; 1 operation left to LibTorch" in report.text
    data = json.loads(report.to_json())
    assert data["operations"] == 8 and data["operations_in_engines"] == 7 and data["flops"] == report.flops
    whole = reports(Chain())
    assert whole.operations == whole.operations_in_engines == 8 and whole.flops_in_engines == 1
    assert not whole.separations and not whole.smaller_blocks


def test_entry_that_keeps_two_segments_apart():
    report = reports(Chain(), torch_executed_ops=["aten::sin"])
    (separation,) = report.separations
    assert (separation.first, separation.second) == ("segment_0", "segment_1")
    assert [report.fallbacks[place].op for place in separation.because] == ["aten::sin"]
    assert separation.settings == ["torch_executed_ops names aten::sin"]
    line = line_of("torch.sin(x)")
    assert (
        f"segment_0 and segment_1 are apart because of aten::sin (test_report.py:{line}); torch_executed_ops names "
        "aten::sin: without it they would be one\n"
    ) in report.text
    assert json.loads(report.to_json())["separations"] == [
        {
            "first": "segment_0",
            "second": "segment_1",
            "because": [0],
            "settings": ["torch_executed_ops names aten::sin"],
        }
    ]


def test_entries_that_keep_segments_apart_together():
    """Without one of them the other would still do it."""
    report = reports(Chain(), torch_executed_ops=["aten::sin", "aten::cos"])
    (separation,) = report.separations
    assert separation.settings == ["torch_executed_ops names aten::sin", "torch_executed_ops names aten::cos"]
    assert ": without them they would be one\n" in report.text


def test_module_that_keeps_two_segments_apart():
    class Three(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            x = torch.sin(torch.relu(self.a(x)))
            return torch.cos(torch.relu(self.c(self.b(x))))

    report = reports(Three(), torch_executed_modules=["b"])
    (separation,) = report.separations
    assert separation.settings == ["torch_executed_modules names b"]
    assert "torch_executed_modules names b: without it they would be one" in report.text


def test_no_setting_merges_what_an_operation_separates():
    report = reports(RandomBetween())
    (separation,) = report.separations
    assert separation.settings == []
    assert [report.fallbacks[place].op for place in separation.because] == ["aten::bernoulli"]
    assert f"are apart because of aten::bernoulli (test_report.py:{line_of('torch.bernoulli(')})\n" in report.text


def test_entry_beside_an_operation_that_stays_anyway():
    """Without the entry the segments would still be two."""
    report = reports(RandomBetween(), torch_executed_ops=["aten::sigmoid"])
    (separation,) = report.separations
    assert [report.fallbacks[place].op for place in separation.because] == ["aten::sigmoid", "aten::bernoulli"]
    assert separation.settings == [] and "they would be one" not in report.text


# A linear layer counts as three operations: product, transposition, bias.
LEFT_BY_SIZE = [
    (6, [(5, 3, 3)], "min_block_size=6 left 3 operations to LibTorch: min_block_size=5 takes them in\n"),
    (
        7,
        [(6, 4, 7), (5, 7, 7)],
        "min_block_size=7 left 7 operations to LibTorch: min_block_size=6 takes 4 of them in\n",
    ),
]


@pytest.mark.parametrize("size, smaller, words", LEFT_BY_SIZE)
def test_smaller_min_block_size_does_what_is_said(size, smaller, words):
    options = dict(torch_executed_ops=["aten::sin"])
    report = reports(Chain(), min_block_size=size, **options)
    assert [(b.min_block_size, b.operations, b.left) for b in report.smaller_blocks] == smaller
    assert words in report.text
    data = json.loads(report.to_json())
    assert data["min_block_size"] == size
    assert [tuple(blocks.values()) for blocks in data["smaller_blocks"]] == smaller
    for blocks in report.smaller_blocks:
        after = reports(Chain(), min_block_size=blocks.min_block_size, **options)
        assert after.operations_in_engines == report.operations_in_engines + blocks.operations
        same = reports(Chain(), min_block_size=blocks.min_block_size + 1, **options)
        assert same.operations_in_engines < after.operations_in_engines


def test_segment_left_for_time_is_not_counted_in_engines(monkeypatch):
    """Whichever is faster, the shares are those of what runs as engines."""
    monkeypatch.setenv("TORCHWELD_DISABLE", "")
    compiled = torchweld.compile(torch.jit.script(Chain().eval()), [torch.randn(2, 8)])
    report = torchweld.explain(compiled)
    left = [f for f in report.fallbacks if f.op.startswith("segment_")]
    assert report.operations_in_engines == (0 if left else 8)
    assert report.flops_in_engines == (0 if left else 1)


def test_methods_are_counted_together():
    class Two(Chain):
        @torch.jit.export
        def encode(self, x):
            return torch.relu(self.first(x)) + 1.0

    options = dict(methods=["forward", "encode"], torch_executed_ops=["aten::sin"])
    report = reports(Two(), **options)
    assert [engine.name for engine in report.engines] == ["segment_0", "segment_1", "segment_2"]
    assert (report.operations, report.operations_in_engines) == (11, 10)
    assert [(s.first, s.second) for s in report.separations] == [("segment_0", "segment_1")]


def test_names_of_segments_in_bodies_are_those_of_the_dry_run():
    class Branches(Chain):
        def forward(self, x):
            x = torch.relu(self.first(x)) + 1.0
            if bool(x.sum() > 0):
                x = torch.sin(torch.cos(self.second(x)))  # an inner block
            return torch.tanh(torch.exp(x) * 2.0)

    script, inputs = torch.jit.script(Branches().eval()), [torch.randn(2, 8)]
    planned = torchweld.dry_run(script, inputs)
    compiled = torchweld.compile(script, inputs, optimization_level=0)
    compiled(inputs[0].abs())
    built = torchweld.explain(compiled)
    assert len(planned.engines) == 3
    for before, after in zip(planned.engines, built.engines, strict=True):
        assert before.name == after.name
        assert {step.source for step in after.steps} <= {step.source for step in before.steps}
    reasons = {fallback.op: fallback.reason for fallback in built.fallbacks}
    assert reasons["aten::Bool.Tensor"] == "reads elements of a tensor, which are known only at run time"


def test_report_of_a_saved_module_is_the_same(tmp_path):
    options = dict(torch_executed_ops=["aten::sin"], min_block_size=6, optimization_level=0)
    compiled = torchweld.compile(torch.jit.script(Chain().eval()), [torch.randn(2, 8)], **options)
    path = str(tmp_path / "net.ts")
    torch.jit.save(compiled, path)
    loaded = json.loads(torchweld.explain(torchweld.load(path)).to_json())
    assert loaded == json.loads(torchweld.explain(compiled).to_json())


def test_why_no_cuda_graph_is_replayed(device):
    class Inverse(torch.nn.Module):
        def forward(self, x):
            return torch.relu(torch.linalg.inv(x) * 2.0)

    def reason(net, **options):
        compiled = torchweld.compile(torch.jit.script(net.eval()), [x], optimization_level=0, **options)
        for _ in range(3):
            compiled(x)
        (engine,) = torchweld.explain(compiled).engines
        return engine.not_recorded

    x = torch.randn(8, 8, device=device) + 8 * torch.eye(8, device=device)
    on_cpu = device == "cpu"
    assert reason(Chain().to(device)) == ""
    assert reason(Chain().to(device), cuda_graphs=False) == ("" if on_cpu else "cuda_graphs is off")
    assert ("test_report.py" in reason(Inverse(), min_block_size=1)) != on_cpu
