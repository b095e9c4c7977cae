"""Where the elements of a run lie in a tensor, and their k and scale where these differ from channel to
channel; in machine code.

A run whose elements lie one after the other in memory is computed there. Any other is copied to a buffer of
256 elements: a run that the tensor has only in part, and a run of a channels-last tensor, whose elements lie
one pixel apart. If each plane of a channels-last tensor holds whole runs, the tensor is walked in *tiles*
instead of runs. A tile is 16 channels of 16 pixels. The channels of a pixel are neighbours in memory, and a
tile has 4 blocks of each of 16 runs, so it needs as many words as a run does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from circa_train.fault.masks import LANES, RUN
from circa_train.kernels.cpu.intrinsics import machine_code
from circa_train.kernels.cpu.tasks import ROWS, TILED

#: A tile has 16 channels, and 4 pixels that are neighbours. The other pixels of its blocks are as many again
#: at three more places, LANES apart.
CHANNELS, PIXELS = 16, 4


@machine_code
def steps_of(task: Any, steps: Any) -> None:
    """Write, for each lane of a run (or tile), the number of its block less that of the first block."""
    for lane in range(LANES):
        steps[lane] = np.uint64(lane)
        if task.layout == TILED:
            steps[lane] = np.uint64(lane % CHANNELS * (task.plane // RUN) * LANES + lane // CHANNELS)


@machine_code
def base_of(task: Any, at: int) -> Any:
    """The number of the first block of the run (or tile) with element ``at``, in the order of the walk."""
    if task.layout == TILED:
        plane, pixel = _tile(task, at)
        return np.uint64((task.first_run + (plane * task.plane + pixel) // RUN) * LANES + pixel % LANES)
    return np.uint64((task.first_run + (task.lead + at) // RUN) * LANES)


@machine_code
def _tile(task: Any, at: int) -> Any:
    """(image * channels + first channel, first pixel) of the tile whose first element is number ``at`` in
    the order of the walk.
    """
    strip = CHANNELS * task.plane  # the elements of 16 channels of an image
    inside = at % strip // RUN
    return at // strip * CHANNELS, inside // (LANES // PIXELS) * RUN + inside % (LANES // PIXELS) * PIXELS


@machine_code
def copy_run(task: Any, at: int, count: int, tensor: Any, buffer: Any, offset: int, gather: bool) -> None:
    """Copy ``count`` elements, from row-major index ``at`` on, between the tensor and buffer[offset:]: to the
    buffer if ``gather``, else to the tensor.
    """
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
    """Copy a tile between the tensor and a buffer, to the buffer if ``gather``, else to the tensor. The 16
    channels of a pixel are neighbours in both.
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
def spread(task: Any, start: int, of_channels: Any, count: int, of_elements: Any) -> None:
    """Write what each of the 256 elements from ``start`` on has of its channel: of ``count`` numbers one for
    all channels, or one each. For elements that the tensor does not have it does not matter.
    """
    place = 0
    while place < RUN:
        at = max(start + place, 0)
        length = min(RUN - place, task.plane - at % task.plane)
        number = of_channels[at // task.plane % count]
        for i in range(place, place + length):
            of_elements[i] = number
        place += length


@machine_code
def spread_tile(task: Any, at: int, of_channels: Any, of_elements: Any) -> None:
    """The same for the elements of a tile, with one number per channel."""
    channel = _tile(task, at)[0] % task.channels
    for i in range(RUN):
        of_elements[i] = of_channels[channel + i % CHANNELS]
