"""Between a tensor and its runs in machine code: where the elements of a run lie, and what differs from channel to channel.

Runs that lie in memory as they are numbered are computed in place. The others go through a buffer of 256: runs that the
tensor covers in part, and runs of channels-last tensors, whose elements lie a pixel apart. Where the planes of such a tensor
hold whole runs, it is walked in *tiles* instead: 16 channels of 16 pixels, which are neighbours in memory, and lie in 4 blocks
of 16 runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circa_train.fault.masks import LANES, RUN
from circa_train.nn.kernels.intrinsics import array_at, machine_code
from circa_train.nn.kernels.jobs import ROWS, TILED

CHANNELS, PIXELS = 16, 4  # of a tile's blocks; each block has four more such pixels, LANES apart


@machine_code
def steps_of(job: Any, steps: Any) -> None:
    """How far the block of each lane of a run (or tile) is from the first."""
    for lane in range(LANES):
        steps[lane] = np.uint64(lane)
        if job.layout == TILED:
            steps[lane] = np.uint64(lane % CHANNELS * (job.plane // RUN) * LANES + lane // CHANNELS)


@machine_code
def base_of(job: Any, at: int) -> Any:
    """The first block of the run (or tile) that element ``at`` of those walked is in."""
    if job.layout == TILED:
        plane, pixel = _tile(job, at)
        return np.uint64((job.first_run + (plane * job.plane + pixel) // RUN) * LANES + pixel % LANES)
    return np.uint64((job.first_run + (job.lead + at) // RUN) * LANES)


@machine_code
def _tile(job: Any, at: int) -> Any:
    """(image * channels + first channel, first pixel) of the tile whose first element is number ``at`` of those walked."""
    strip = CHANNELS * job.plane  # of 16 channels, walked 64 blocks at a time
    inside = at % strip // RUN
    return at // strip * CHANNELS, inside // (LANES // PIXELS) * RUN + inside % (LANES // PIXELS) * PIXELS


@machine_code
def copy_run(job: Any, at: int, count: int, tensor: Any, buffer: Any, offset: int, gather: bool) -> None:
    """Between ``count`` elements of the tensor from row-major index ``at`` on, and buffer[offset:]."""
    stride, image = (1, job.elements) if job.layout == ROWS else (job.channels, job.channels * job.plane)
    plane = job.elements if job.layout == ROWS else job.plane
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
def copy_tile(job: Any, at: int, tensor: Any, buffer: Any, gather: bool) -> None:
    """Between the tensor and the 256 elements of a tile, the 16 channels of a pixel beside each other in both."""
    plane, pixel = _tile(job, at)
    image, channel = plane // job.channels, plane % job.channels
    for row in range(RUN // CHANNELS):
        base = (image * job.plane + pixel + row // PIXELS * LANES + row % PIXELS) * job.channels + channel
        for i in range(CHANNELS):
            if gather:
                buffer[row * CHANNELS + i] = tensor[base + i]
            else:
                tensor[base + i] = buffer[row * CHANNELS + i]


@machine_code
def dropped_of(job: Any, start: int, dropped: Any) -> None:
    """2^k - 1 for the 256 elements from ``start`` on, which may lie before or beyond the tensor, where it does not matter."""
    k = array_at(job.k, job.k_count, np.int64)
    place = 0
    while place < RUN:
        at = max(start + place, 0)
        count = min(RUN - place, job.plane - at % job.plane)
        low = np.uint32((1 << k[at // job.plane % job.k_count]) - 1)
        for i in range(place, place + count):
            dropped[i] = low
        place += count


@machine_code
def dropped_of_tile(job: Any, at: int, dropped: Any) -> None:
    """2^k - 1 for the elements of a tile, k per channel."""
    k = array_at(job.k, job.k_count, np.int64)
    channel = _tile(job, at)[0] % job.channels
    for i in range(RUN):
        dropped[i] = np.uint32((1 << k[channel + i % CHANNELS]) - 1)
