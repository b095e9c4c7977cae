"""The fused forward of one ReLU site, on each backend bit for bit the same.

    settings       what a kernel is told about a site    reference   the definition, in plain formulas
    ops            the operators, for every backend      cpu         the compiled CPU kernel
    eager          the short way to the CPU kernel       triton      the kernels for CUDA
    transformed    a site under torch.func               masks       a site's masks on their own

Nothing is imported before it is used: torch, numba and Triton take seconds. ``docs/kernels.md`` lists what is
fragile in here, and how to switch it off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.kernels.cpu.memory import keep_memory
    from circa_train.kernels.masks import mask_vector_bits, uniform_masks
    from circa_train.kernels.ops import (
        settings_from_text,
        settings_to_text,
        stochastic_relu,
        stochastic_relu_without_gradient,
    )
    from circa_train.kernels.settings import COUNTS, SiteSettings

__all__ = [
    "BACKENDS",
    "COUNTS",
    "SiteSettings",
    "check_backend",
    "keep_memory",
    "mask_vector_bits",
    "settings_from_text",
    "settings_to_text",
    "stochastic_relu",
    "stochastic_relu_without_gradient",
    "uniform_masks",
]

BACKENDS = ("auto", "reference", "cpu", "triton")


def check_backend(backend: str) -> str:
    """Return ``backend`` if there is one of that name; ValueError otherwise."""
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r} is not one of {', '.join(BACKENDS)}")
    return backend


_HOMES = {
    "COUNTS": "settings",
    "SiteSettings": "settings",
    "keep_memory": "cpu.memory",
    "mask_vector_bits": "masks",
    "settings_from_text": "ops",
    "settings_to_text": "ops",
    "stochastic_relu": "ops",
    "stochastic_relu_without_gradient": "ops",
    "uniform_masks": "masks",
}
__getattr__, __dir__ = face(__name__, _HOMES)
