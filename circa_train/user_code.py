"""Code of the user's own, by reference: ``python:package.module:name`` or ``python:path/to/file.py:name``.

A network, a data set or a fault model that is not ours is named on the command line like this, registered in
Python (``register_model``, ``register_dataset``, a subclass of ``SignTest``), or installed as a plug-in: a
package whose metadata has entry points in the groups ``circa_train.models``, ``circa_train.datasets`` or
``circa_train.sign_tests``.

Importing code runs it. So a reference is only followed if the user named it: one that stands in a file (a
checkpoint, an export folder) is refused by :func:`require_named` until the same reference was named in this
process, or trust was given.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

PREFIX = "python:"

#: References that the user has named in this process.
_NAMED: set[str] = set()


class UnnamedCode(ValueError):
    """A file asks for code that the user has not named; the message says how to name it."""


def is_reference(name: object) -> bool:
    """Does a name stand for code of the user's own?"""
    return isinstance(name, str) and name.startswith(PREFIX)


def load(reference: str) -> Any:
    """The object that a reference names (with or without ``python:``), its module imported once per process.

    Raises:
        ValueError: if the reference has no ``module:name`` form, or there is no such file, module or name.
    """
    place, name = _parts(reference)
    module = _file_module(place) if _is_file(place) else _module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            there = ", ".join(n for n in vars(module) if not n.startswith("_")) or "nothing"
            raise ValueError(f"{reference}: {place} has no {name!r}; it has {there}")
        found = getattr(found, part)
    _NAMED.add(_normal(reference))
    return found


def was_named(reference: str) -> bool:
    """Has the user named this code in this process?"""
    return _normal(reference) in _NAMED


def require_named(references: Mapping[str, str], *, trusted: bool) -> None:
    """Refuse references that come from a file, unless the user has named them or trusts the file.

    Args:
        references: as the file has them, and by each what the user can say to name it.
        trusted: the user's word that code named by files may be imported.

    Raises:
        UnnamedCode: for all those for which neither holds.
    """
    unnamed = {reference: how for reference, how in references.items() if not was_named(reference)}
    if unnamed and not trusted:
        raise UnnamedCode(
            f"it was made with code of somebody's own, {', '.join(unnamed)}, and code is never imported "
            "because a file says so. "
            f"If it is yours, name it: {' '.join(unnamed.values())}; or trust what the file says: "
            "run.trust_code=true (in Python: trust_code=True)"
        )


def source_digest(reference: str) -> str | None:
    """SHA-256 of the source file behind a reference, None where there is no such file (an extension module,
    say).
    """
    place, _ = _parts(reference)
    if _is_file(place):
        path = Path(place).expanduser()
    else:
        with _current_folder_first():
            try:
                spec = importlib.util.find_spec(place)
            except ImportError:
                return None
        path = Path(spec.origin) if spec is not None and spec.origin else Path()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@functools.cache
def plug_ins(group: str) -> dict[str, EntryPoint]:
    """The installed plug-ins of ``circa_train.<group>`` by name; ``.load()`` gives the object."""
    return {point.name: point for point in entry_points(group=f"circa_train.{group}")}


class Registry:
    """Objects of the user's own that are known by name.

    Args:
        group: the plug-ins that belong to it (see :func:`plug_ins`).
        what: what one is called in an error, "a network" say.
    """

    def __init__(self, group: str, what: str) -> None:
        self._group, self._what = group, what
        self.registered: dict[str, Any] = {}

    def register(self, name: str, one: Any) -> None:
        """Make ``one`` known by ``name``; ValueError if that is empty or holds a colon (for options)."""
        if not name or ":" in name:
            raise ValueError(f"{self._what} cannot be called {name!r}: give it a name without a colon")
        self.registered[name] = one

    def names(self) -> tuple[str, ...]:
        """What is registered, and what is installed."""
        return (*self.registered, *plug_ins(self._group))

    def find(self, name: str) -> Any | None:
        """What a reference, a registered name or a plug-in stands for; None if it is none of these."""
        if is_reference(name):
            return load(name)
        if name in self.registered:
            return self.registered[name]
        plug_in = plug_ins(self._group).get(name)
        return None if plug_in is None else plug_in.load()


def _parts(reference: str) -> tuple[str, str]:
    place, colon, name = reference.removeprefix(PREFIX).rpartition(":")
    if not colon or not place or not name:
        raise ValueError(
            f"{reference!r} names no code: say {PREFIX}package.module:name or {PREFIX}path/to/file.py:name"
        )
    return place, name


def _normal(reference: str) -> str:
    place, name = _parts(reference)
    return f"{Path(place).expanduser().resolve() if _is_file(place) else place}:{name}"


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _module(place: str) -> Any:
    with _current_folder_first():
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not place.startswith(error.name):
                raise  # a package that the module itself needs
            raise ValueError(
                f"there is no module {place!r} (looked for in the current folder and in sys.path); "
                f"a file is named with its path, {PREFIX}path/to/file.py:name"
            ) from error


def _file_module(place: str) -> Any:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"there is no file {place} (looked for at {path})")
    name = f"user_code_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # so that files beside it can be imported, as when it is run
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Modules in the current folder can be imported, whatever started Python."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")
