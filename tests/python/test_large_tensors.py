"""Tensors of more than 2^31 elements: positions and offsets are 64-bit numbers where they must be.

On CUDA; on the CPU this takes minutes, and tests/unit/large_index_test.cpp does the same for parts of such tensors.
"""

import pytest
import torch
import torchweld

ROWS, COLUMNS = 2**21 + 3, 1024  # 2^31 elements and three rows
NEEDED = 24 << 30  # bytes that are free

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.mem_get_info()[0] < NEEDED, reason="no CUDA device with 24 GB free"
)


class RowByRow(torch.nn.Module):
    """A loop over all elements, rows, sums along and across, and a transpose; nothing looks at two rows at once."""

    def forward(self, x):
        y = torch.relu(x * 2 + x)
        return y, y.amax(1), y.argmin(1), y.t().contiguous()


class Sums(torch.nn.Module):
    def forward(self, x):
        y = x * 2 + 1
        return y.sum(), y.amax(), y.sum(0), y.sum(1)


def test_rows_beyond_32_bits():
    x = torch.zeros(ROWS, COLUMNS, dtype=torch.half, device="cuda")
    ends = [slice(0, 4), slice(2**20 - 2, 2**20 + 2), slice(2**21 - 2, ROWS)]  # 2^30 and 2^31 elements are inside
    for rows in ends:
        x[rows] = torch.randint(0, 9, x[rows].shape, device="cuda").half()
    compiled = torchweld.compile(torch.jit.script(RowByRow().eval()), [x], optimization_level=0)
    assert len(torchweld.explain(compiled).engines) == 1
    *by_rows, turned = compiled(x)
    for rows in ends:
        *expected, expected_turned = RowByRow()(x[rows])
        for actual, e in zip(by_rows, expected, strict=True):
            assert torch.equal(actual[rows], e)
        assert torch.equal(turned[:, rows], expected_turned)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_sums_beyond_32_bits(dtype):
    """An expanded tensor, which takes no memory. All sums but the whole are numbers that float32 holds."""
    x = torch.ones(1, 1, dtype=dtype, device="cuda").expand(ROWS - 1, COLUMNS)
    compiled = torchweld.compile(torch.jit.script(Sums().eval()), [x], optimization_level=0)
    assert len(torchweld.explain(compiled).engines) == 1
    whole, largest, columns, rows = compiled(x)
    assert whole.item() == pytest.approx(3 * x.numel(), rel=0 if dtype == torch.uint8 else 1e-6)
    assert largest.item() == 3
    assert torch.equal(columns, torch.full_like(columns, 3 * x.shape[0]))
    assert torch.equal(rows, torch.full_like(rows, 3 * x.shape[1]))
