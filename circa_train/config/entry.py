"""Around ``@hydra.main``: registration, and paths that Hydra's override grammar would not take as they are."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

#: Overrides whose values are paths.
PATH_KEYS = ("checkpoint", "teacher", "fault.path", "runs", "out", "run.root", "data.root")

_SPECIAL = re.compile(r"[=\s:(){}\[\]'\\]")


def entry(main: Callable[[], Any]) -> Callable[[], Any]:
    """The outermost decorator of a script's main: register schemas, quote paths, then let Hydra take over."""

    @functools.wraps(main)
    def run(*args: Any) -> Any:
        from circa_train.config import register

        register()
        sys.argv[1:] = quote_paths(sys.argv[1:])
        return main(*args)

    return run


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Quote the values of path overrides that hold characters with a meaning in Hydra's grammar.

    ``checkpoint=runs/lr=0.1/best.pt`` becomes ``checkpoint="runs/lr=0.1/best.pt"``. Values that are already quoted, lists,
    and sweeps by comma stay as they are.

    >>> quote_paths(["checkpoint=a=b.pt", "seed=1"])
    ['checkpoint="a=b.pt"', 'seed=1']
    """
    quoted = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_plain = equals and key.lstrip("+") in PATH_KEYS and not value.startswith(("'", '"', "[", "$", "glob(", "choice("))
        if is_plain and "," not in value and _SPECIAL.search(value):
            escaped = value.replace('"', '\\"')
            argument = f'{key}="{escaped}"'
        quoted.append(argument)
    return quoted
