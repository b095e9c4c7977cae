"""Which channels must share a scale: a union-find over numbers, in tensors of numbers.

Every channel that a layer makes gets a number, and an activation is described by a tensor of its own shape
that holds, for every element, the number of the channel whose scale it has. A step that only moves elements
moves the numbers in the same way; a sum ties the numbers of its two operands.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: The number of an element that is zero whatever the scales are. It agrees with every other.
ZERO = 0


class Ties:
    """Numbers of channels, those that are tied to one another, and why some must keep their scale."""

    def __init__(self) -> None:
        self._parent = [ZERO]
        self._reasons: dict[int, dict[str, None]] = {}

    def new(self, count: int) -> Tensor:
        """Numbers of so many further channels, tied to nothing yet."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        return torch.arange(first, first + count)

    def fixed(self, reason: str) -> Tensor:
        """The number of a further channel that must keep its scale, as a tensor without axes."""
        number = self.new(1)[0]
        self.freeze(number, reason)
        return number

    @property
    def total(self) -> int:
        """How many numbers there are, :data:`ZERO` included."""
        return len(self._parent)

    def root(self, number: int) -> int:
        """The number that stands for all that ``number`` is tied to."""
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number

    def roots(self, numbers: Tensor) -> Tensor:
        """:meth:`root` of every element."""
        (short,) = _without_repetition(numbers)
        different, places = torch.unique(short, return_inverse=True)
        roots = torch.tensor([self.root(number) for number in different.tolist()], dtype=torch.int64)
        return roots[places].expand(numbers.shape)

    def tie(self, a: Tensor, b: Tensor) -> Tensor:
        """Elements at the same place (the two broadcast) share their scale from now on. Their numbers."""
        a, b = torch.broadcast_tensors(a, b)
        short_a, short_b = _without_repetition(a, b)
        pairs = torch.stack([short_a.reshape(-1), short_b.reshape(-1)])
        pairs = torch.unique(pairs[:, (pairs != ZERO).all(0)], dim=1)
        for first, second in zip(*pairs.tolist(), strict=True):
            self._unite(first, second)
        return torch.where(a == ZERO, b, a) if bool((short_a == ZERO).any()) else a

    def tie_along(self, numbers: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Elements that differ only in these axes share their scale. One number for each, the axes kept."""
        if not axes:
            return numbers
        for axis in axes:
            if numbers.stride(axis) == 0 and numbers.shape[axis] > 1:
                numbers = numbers.narrow(axis, 0, 1)
        largest = numbers.amax(axes, keepdim=True)
        if all(numbers.shape[axis] == 1 for axis in axes):
            return numbers
        self.tie(numbers, largest)
        return largest

    def freeze(self, numbers: Tensor, reason: str) -> None:
        """These channels keep their scale, for this reason."""
        for number in torch.unique(_without_repetition(numbers)[0]).tolist():
            if number != ZERO:
                self._reasons.setdefault(self.root(number), {})[reason] = None

    def frozen(self, numbers: Tensor) -> bool:
        """Whether all of these channels must keep their scale as things stand; they will not get it back."""
        different = torch.unique(_without_repetition(numbers)[0]).tolist()
        return all(number == ZERO or self.root(number) in self._reasons for number in different)

    def reasons(self, root: int) -> tuple[str, ...]:
        """Why a channel must keep its scale; empty if it need not."""
        return tuple(self._reasons.get(root, ()))

    def _unite(self, a: int, b: int) -> None:
        a, b = sorted((self.root(a), self.root(b)))
        if a != b:
            self._parent[b] = a  # the first made stands for all, so that groups are in the order of execution
            if b in self._reasons:
                self._reasons.setdefault(a, {}).update(self._reasons.pop(b))


def compact(numbers: Tensor) -> Tensor:
    """The same tensor, expanded along every axis along which it only repeats itself: networks have a thousand
    times as many elements as channels.
    """
    shape = numbers.shape
    for axis in range(numbers.dim()):
        if numbers.shape[axis] > 1:
            first = numbers.narrow(axis, 0, 1)
            if numbers.stride(axis) == 0 or bool((numbers == first).all()):
                numbers = first
    return numbers.expand(shape)


def _without_repetition(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors without the repetitions that all of them are expanded along."""
    for axis in range(tensors[0].dim()):
        if tensors[0].shape[axis] > 1 and all(tensor.stride(axis) == 0 for tensor in tensors):
            tensors = tuple(tensor.narrow(axis, 0, 1) for tensor in tensors)
    return tensors
