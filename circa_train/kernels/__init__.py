"""The fused forward of one ReLU site, on each backend bit for bit the same."""

from __future__ import annotations

BACKENDS = ("auto", "reference", "cpu", "triton")


def check_backend(backend: str) -> str:
    """Return ``backend`` if there is one of that name; ValueError otherwise."""
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r} is not one of {', '.join(BACKENDS)}")
    return backend
