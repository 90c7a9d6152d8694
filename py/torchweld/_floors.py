"""How fast the steps of an engine could be at best on a device whose limits are known."""

import dataclasses
import math

import torch

CACHE_SHARE = 0.6  # of the L2 cache that operands may fill and still be found there; the engine assumes the same


@dataclasses.dataclass(frozen=True)
class Device:
    """Limits of a device; bandwidths in bytes a second, peaks in dense floating-point operations a second."""

    memory: float
    cache: float
    cache_bytes: int
    boundary_us: float  # between two launches in a CUDA graph with programmatic dependent launch
    peaks: dict  # by the dtype of what is multiplied


# H100 SXM. Memory and peaks, without sparsity, are from NVIDIA's data sheet: that of float32 is TF32's (67e12 without);
# the cache's bandwidth and the boundary were measured.
H100 = Device(
    memory=3.35e12,
    cache=5.5e12,
    cache_bytes=50 * 2**20,
    boundary_us=0.76,
    peaks={torch.float16: 989e12, torch.bfloat16: 989e12, torch.float32: 495e12},
)
DEVICES = {"NVIDIA H100 80GB HBM3": H100}


def device_of(name):
    """The limits of the device that calls itself so; None where they are not known."""
    return DEVICES.get(name)


def floors(steps, device, dtype):
    """Microseconds that each step (of explain) takes at least; None where the device's limits are not known.

    The longest of: all operands through the cache once; those that come from memory; the operations; a launch. Weights
    come from memory where all steps' do not fit the cache, other operands where those of the step do not.
    """
    if device is None:
        return [None] * len(steps)
    room = CACHE_SHARE * device.cache_bytes
    weights_from_memory = sum(step.weight_bytes for step in steps) > room

    def floor(step):
        others = step.bytes - step.weight_bytes
        from_memory = step.weight_bytes * weights_from_memory + others * (others > room)
        arithmetic = step.flops / device.peaks.get(dtype, math.inf)
        seconds = max(step.bytes / device.cache, from_memory / device.memory, arithmetic)
        return max(device.boundary_us, seconds * 1e6)

    return [floor(step) for step in steps]
