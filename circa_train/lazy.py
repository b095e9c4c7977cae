"""Faces of packages whose names load on first use, so that what needs no torch does not wait for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def face(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose public names live in its modules.

    Args:
        package: its ``__name__``.
        homes: the module, below the package, of every name.

    Raises:
        ValueError: if a name is also a module's: once that is imported, the package has it by that name.
    """
    if clash := homes.keys() & {home.split(".")[0] for home in homes.values()}:
        raise ValueError(f"{package}: {', '.join(sorted(clash))} names a module and something within one")

    def load(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load, lambda: sorted(homes)
