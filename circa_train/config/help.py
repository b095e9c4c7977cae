"""What ``--help`` says of a script's groups and values: only what this script takes.

Hydra lists every group there is. So the templates of the root configurations ask these resolvers instead.
"""

from __future__ import annotations

import re
import string
import textwrap
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from circa_train.jobs.allowed import FORMS, MORE, REFUSED, WORDS

#: Groups that are added with a plus; an option names its script in the command that it says.
ADDED = ("experiment", "sweep")
_WIDTH = 110
_ABSENT = "absent"


def page(config: DictConfig) -> str:
    """The script's help, with the values of ``config``, which was composed with Hydra's own part."""
    template = string.Template(config.hydra.help.template)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return template.substitute(CONFIG=OmegaConf.to_yaml(own))


def groups(config: DictConfig, folder: Path) -> str:
    """A line ``group: option, option`` for every group of the script that ``config`` was composed for."""
    script = str(config.hydra.job.config_name)
    chosen = [group for group in config.hydra.runtime.choices if not group.startswith("hydra/")]
    lines = {group: _options(group, script, folder) for group in sorted(chosen)}
    lines |= {f"+{group}": _added(group, script, folder) for group in ADDED}
    return _listed({group: ", ".join(options) for group, options in lines.items() if options})


def values(config: DictConfig) -> str:
    """A line ``key: value, value`` for every key of the script whose values are words, or have a range."""
    script = str(config.hydra.job.config_name)
    told = {}
    for key, words in WORDS.items():
        told[key] = ", ".join((*words, *MORE.get(script, {}).get(key, ())))
    told |= FORMS
    there = {
        key: text
        for key, text in told.items()
        if OmegaConf.select(config, key, default=_ABSENT, throw_on_missing=False) != _ABSENT
    }
    return _listed(there)


def _options(group: str, script: str, folder: Path) -> list[str]:
    found = {path.stem for path in (folder / group).glob("*.yaml")}
    stored = ConfigStore.instance().repo.get(group, {})
    found |= {name.removesuffix(".yaml") for name in stored}
    return sorted(found - set(REFUSED.get(script, {}).get(group, ())))


def _added(group: str, script: str, folder: Path) -> list[str]:
    command = re.compile(rf"^#.*scripts/{script}\.py .*{group}=", re.MULTILINE)
    files = sorted((folder / group).glob("*.yaml"))
    return [path.stem for path in files if command.search(path.read_text(encoding="utf-8"))]


def _listed(lines: dict[str, str]) -> str:
    width = max(map(len, lines), default=0) + 2
    wrapped = (
        textwrap.fill(
            text, _WIDTH, initial_indent=f"  {name}:".ljust(width + 3), subsequent_indent=" " * (width + 3)
        )
        for name, text in lines.items()
    )
    return "\n".join(wrapped)
