"""Dataclasses made from the fields of other dataclasses, so that a name or a default is written down once."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import field, fields, make_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

#: Stands in a configuration for a value that has to be given; Hydra and OmegaConf know it by this text.
MISSING = "???"


def mirrored(
    name: str,
    settings: type,
    only: Sequence[str] | Mapping[str, str] | None = None,
    *,
    without: Sequence[type] = (),
    base: type | None = None,
    extra: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> type:
    """A dataclass with the fields of ``settings``, as configurations can hold them: tuples are lists there.

    Args:
        name: of the class, which must be assigned to this name in the module that calls (so that it can be
            pickled).
        settings: a dataclass.
        only: which of its fields, or ``{field: name in the configuration}``; None is all.
        without: classes made by this function, whose fields are left out.
        base: a dataclass to derive from.
        extra: further fields, strings with their values.
        values: other defaults, by field.
    """
    taken = {origin for other in without for origin in other.mirrors.values()}  # type: ignore[attr-defined]
    if only is None:
        only = [f.name for f in fields(settings) if f.name not in taken]
    chosen = dict(only) if isinstance(only, Mapping) else {each: each for each in only}
    hints = get_type_hints(settings)
    parts: list[tuple[str, Any, Any]] = [
        (key, str, field(default=value)) for key, value in (extra or {}).items()
    ]
    for origin, each in chosen.items():
        (given,) = (f for f in fields(settings) if f.name == origin)
        default: Any = (values or {}).get(origin, given.default)
        if default is NO_DEFAULT:
            factory: Any = given.default_factory
            default = MISSING if factory is NO_DEFAULT else factory()
        if isinstance(default, (tuple, list)):
            parts.append(
                (each, _plain(hints[origin]), field(default_factory=functools.partial(list, default)))
            )
        else:
            parts.append((each, _plain(hints[origin]), field(default=default)))
    namespace = {"mirrors": {each: origin for origin, each in chosen.items()}}
    made = make_dataclass(name, parts, bases=(base,) if base else (), namespace=namespace)
    made.__module__ = sys._getframe(1).f_globals["__name__"]
    made.__doc__ = f"Mirrors {settings.__module__}.{settings.__name__}."
    return made


def _plain(hint: Any) -> Any:
    """A type that OmegaConf can hold: of "one or a tuple of them" the one, of a tuple a list."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if get_origin(kind) is not tuple]
        return Union[tuple(_plain(kind) for kind in kinds)]  # noqa: UP007 - of a computed tuple
    if get_origin(hint) is tuple:
        return list[get_args(hint)[0]]  # type: ignore[misc]
    return hint
