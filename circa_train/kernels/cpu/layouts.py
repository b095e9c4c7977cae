"""Between a tensor and its runs in machine code: where the elements of a run lie, and what differs from
channel to channel.

Runs that lie in memory as they are numbered are computed in place. The others go through a buffer of 256:
runs that the tensor covers in part, and runs of channels-last tensors, whose elements lie a pixel apart.
Where the planes of such a tensor hold whole runs, it is walked in *tiles* instead: 16 channels of 16 pixels,
which are neighbours in memory, and lie in 4 blocks of 16 runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circa_train.fault.masks import LANES, RUN
from circa_train.kernels.cpu.intrinsics import array_at, machine_code
from circa_train.kernels.cpu.tasks import ROWS, TILED

CHANNELS, PIXELS = 16, 4  # of a tile's blocks; each block has four more such pixels, LANES apart


@machine_code
def steps_of(task: Any, steps: Any) -> None:
    """How far the block of each lane of a run (or tile) is from the first."""
    for lane in range(LANES):
        steps[lane] = np.uint64(lane)
        if task.layout == TILED:
            steps[lane] = np.uint64(lane % CHANNELS * (task.plane // RUN) * LANES + lane // CHANNELS)


@machine_code
def base_of(task: Any, at: int) -> Any:
    """The first block of the run (or tile) that element ``at`` of those walked is in."""
    if task.layout == TILED:
        plane, pixel = _tile(task, at)
        return np.uint64((task.first_run + (plane * task.plane + pixel) // RUN) * LANES + pixel % LANES)
    return np.uint64((task.first_run + (task.lead + at) // RUN) * LANES)


@machine_code
def _tile(task: Any, at: int) -> Any:
    """(image * channels + first channel, first pixel) of the tile whose first element is number ``at`` of
    those walked.
    """
    strip = CHANNELS * task.plane  # of 16 channels, walked 64 blocks at a time
    inside = at % strip // RUN
    return at // strip * CHANNELS, inside // (LANES // PIXELS) * RUN + inside % (LANES // PIXELS) * PIXELS


@machine_code
def copy_run(task: Any, at: int, count: int, tensor: Any, buffer: Any, offset: int, gather: bool) -> None:
    """Between ``count`` elements of the tensor from row-major index ``at`` on, and buffer[offset:]."""
    stride, image = (1, task.elements) if task.layout == ROWS else (task.channels, task.channels * task.plane)
    plane = task.elements if task.layout == ROWS else task.plane
    done = 0
    while done < count:
        index = at + done
        channel, pixel = index % image // plane, index % plane
        base = index // image * image + channel + pixel * stride
        length = min(count - done, plane - pixel)
        if gather:
            for i in range(length):
                buffer[offset + done + i] = tensor[base + i * stride]
        else:
            for i in range(length):
                tensor[base + i * stride] = buffer[offset + done + i]
        done += length


@machine_code
def copy_tile(task: Any, at: int, tensor: Any, buffer: Any, gather: bool) -> None:
    """Between the tensor and the 256 elements of a tile, the 16 channels of a pixel beside each other in
    both.
    """
    plane, pixel = _tile(task, at)
    image, channel = plane // task.channels, plane % task.channels
    for row in range(RUN // CHANNELS):
        base = (image * task.plane + pixel + row // PIXELS * LANES + row % PIXELS) * task.channels + channel
        for i in range(CHANNELS):
            if gather:
                buffer[row * CHANNELS + i] = tensor[base + i]
            else:
                tensor[base + i] = buffer[row * CHANNELS + i]


@machine_code
def dropped_of(task: Any, start: int, dropped: Any) -> None:
    """2^k - 1 for the 256 elements from ``start`` on, which may lie before or beyond the tensor, where it
    does not matter.
    """
    k = array_at(task.k, task.k_count, np.int64)
    place = 0
    while place < RUN:
        at = max(start + place, 0)
        count = min(RUN - place, task.plane - at % task.plane)
        low = np.uint32((1 << k[at // task.plane % task.k_count]) - 1)
        for i in range(place, place + count):
            dropped[i] = low
        place += count


@machine_code
def dropped_of_tile(task: Any, at: int, dropped: Any) -> None:
    """2^k - 1 for the elements of a tile, k per channel."""
    k = array_at(task.k, task.k_count, np.int64)
    channel = _tile(task, at)[0] % task.channels
    for i in range(RUN):
        dropped[i] = np.uint32((1 << k[channel + i % CHANNELS]) - 1)
