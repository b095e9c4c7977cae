"""A script's main: Hydra's, with our schemas registered before, paths that its override grammar would not
take as they are, and a ``--help`` that is there at once.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from circa_train.config import help
from circa_train.config.checks import composing
from circa_train.config.registration import config_folder, register

#: Overrides whose values are paths.
PATH_KEYS = (
    "checkpoint", "teacher", "fault.path", "fault.frac_bits", "runs", "out", "run.root", "data.root",
    "model.name", "data.name",
    "export", "images", "compare", "pi.stores", "tls.certificate", "tls.key", "tls.authority",
)  # fmt: skip

#: Of these, those of which a pattern may name several: a sweep over checkpoints, a table of several folders.
_PATTERN_KEYS = ("checkpoint", "runs", "export", "compare")

#: A data set whose options have commas in them: no sweep.
_WITH_OPTIONS = ("synthetic:",)

#: What Hydra's grammar takes without quotes, beside an interpolation.
_PLAIN = re.compile(r"[\w./%@+-]+", re.ASCII)


def entry(name: str) -> Callable[[Callable[[Any], Any]], Callable[[], None]]:
    """Decorate a function of the composed configuration, so that it is the main of the script ``name``."""

    def decorate(task: Callable[[Any], Any]) -> Callable[[], None]:
        main = hydra.main(version_base="1.3", config_path=config_folder(), config_name=name)(task)

        @functools.wraps(task)
        def run() -> None:
            try:
                register(sys.argv[1:])
            except (ValueError, ImportError, SyntaxError) as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)
            sys.argv[1:] = quote_paths(flags_first(sys.argv[1:]))
            shown = _help(name, sys.argv[1:])
            if shown is None:
                with composing():
                    main()
            else:
                print(shown)

        return run

    return decorate


def _help(name: str, arguments: Sequence[str]) -> str | None:
    """What ``--help`` prints, if that is all that is asked for. Hydra would print the same. It lists all of
    its groups first, which takes seconds, and our templates do not show them.
    """
    if arguments[:1] not in (["--help"], ["-h"]) or any(more.startswith("-") for more in arguments[1:]):
        return None
    try:
        with initialize_config_dir(config_folder(), version_base="1.3"):
            return help.page(compose(name, list(arguments[1:]), return_hydra_config=True))
    except HydraException:
        return None  # a mistyped override: the script itself says what is wrong


#: Flags of Hydra's that take the argument after them.
_WITH_VALUE = (
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--info", "-i", "--experimental-rerun",
)  # fmt: skip


def flags_first(arguments: Sequence[str]) -> list[str]:
    """The same command with its overrides after its flags: Hydra takes them in one piece only.

    >>> flags_first(["a=1", "-m", "b=2"])
    ['-m', 'a=1', 'b=2']
    """
    flags: list[str] = []
    overrides: list[str] = []
    for place, argument in enumerate(arguments):
        after = arguments[place - 1] if place else ""
        is_override = ("=" in argument or argument[:1] == "~") and argument[:1] != "-"
        (overrides if is_override and after not in _WITH_VALUE else flags).append(argument)
    return [*flags, *overrides]


def quote_paths(arguments: Sequence[str]) -> list[str]:
    """Expand patterns in path overrides, and quote paths with characters that mean something in Hydra's
    grammar.

    ``checkpoint=runs/lr=0.1/best.pt`` becomes ``checkpoint="runs/lr=0.1/best.pt"``.
    ``checkpoint=runs/sweeps/tuned/*/best.pt`` becomes a sweep over the files there are (in alphabetical
    order), ``runs=`` with a pattern a list. A pattern that matches nothing stays, and the job says that there
    is no such file. Values that are quoted already, lists and sweeps by comma stay as they are, unless there
    is a file of exactly that name.

    So is a data set with options, ``data.name=synthetic:classes=4,size=16``.

    >>> quote_paths(["checkpoint=a=b.pt", "seed=1"])
    ['checkpoint="a=b.pt"', 'seed=1']
    """
    quoted = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        name = key.lstrip("+")
        several = "," in value and not value.startswith(_WITH_OPTIONS)
        composed = several or value.startswith(("'", '"', "[", "$", "glob(", "choice("))
        if not equals or name not in PATH_KEYS or not value:
            quoted.append(argument)
            continue
        there = os.path.exists(os.path.expanduser(value))
        if composed and not there:
            quoted.append(argument)
            continue
        pattern = name in _PATTERN_KEYS and re.search(r"[*?]", value) and not there
        found = sorted(glob.glob(os.path.expanduser(value))) if pattern else []
        listed = ",".join(_quoted(path) for path in found or [value])
        quoted.append(f"{key}=[{listed}]" if name == "runs" and found else f"{key}={listed}")
    return quoted


def _quoted(path: str) -> str:
    """As Hydra's grammar takes it: in double quotes, where a quote, and the backslashes just before one or at
    the end, need a backslash each.
    """
    if _PLAIN.fullmatch(path):
        return path
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), path)
    return '"' + escaped.replace("${", "\\${") + '"' if os.path.exists(path) else f'"{escaped}"'
