"""Many threads and streams call one compiled module at once."""

import concurrent.futures

import pytest
import torch
import torchweld

IMAGE = torchweld.Input(min_shape=(1, 3, 16, 16), opt_shape=(2, 3, 16, 16), max_shape=(8, 3, 16, 16))


def test_eight_threads_get_their_own_results(small_net, device):
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    inputs = [torch.randn(1 + i % 4, 3, 16, 16, device=device) for i in range(8)]
    for x in inputs:
        torchweld.warm_up(compiled, [x])
    expected = [compiled(x) for x in inputs]

    def work(i):
        stream = torch.cuda.Stream() if device != "cpu" else None
        for _ in range(25):
            if stream:
                stream.wait_stream(torch.cuda.default_stream())
                with torch.cuda.stream(stream), torch.no_grad():
                    result = compiled(inputs[i])
                stream.synchronize()
            else:
                with torch.no_grad():
                    result = compiled(inputs[i])
            if not torch.equal(result, expected[i]):
                return float((result - expected[i]).abs().max())
        return 0.0

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [0.0] * 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_callers_stream_is_respected(small_net):
    small_net = small_net.cuda()
    compiled = torchweld.compile(torch.jit.script(small_net), [IMAGE])
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            x = x @ x / 4096
        y = x[:3, :256].reshape(1, 3, 16, 16).nan_to_num() * 0 + 1
        result = compiled(y)
    stream.synchronize()
    torch.testing.assert_close(result, compiled(torch.ones(1, 3, 16, 16, device="cuda")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_recorded_products_outlive_the_workspaces_of_libtorch(monkeypatch):
    monkeypatch.setenv("TORCHWELD_DISABLE", "cublaslt_gemm")

    class Products(torch.nn.Module):
        def forward(self, a, b):
            return torch.relu(a @ b) @ b

    a, b = (torch.randn(256, 256, dtype=torch.float64, device="cuda") for _ in range(2))
    module = torch.jit.script(Products().eval())
    compiled = torchweld.compile(module, [a, b], optimization_level=0)
    assert any(step.tactic == "aten" for engine in torchweld.explain(compiled).engines for step in engine.steps)
    expected = module(a, b)
    torch.testing.assert_close(compiled(a, b), expected)
    torch._C._cuda_clearCublasWorkspaces()
    taken = [torch.full((2**20,), float("nan"), device="cuda") for _ in range(64)]
    for _ in range(3):
        torch.testing.assert_close(compiled(a, b), expected)
    assert all(block.isnan().all() for block in taken)  # The graph has written into nobody's memory.
