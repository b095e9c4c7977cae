"""Composing the jobs of a sweep in milliseconds.

Hydra composes every job of a sweep from its YAML files twice, 75 ms each: a thousand jobs wait for minutes.
But jobs of a sweep differ in values, seldom in files. So all jobs that choose the same groups share one
composed template, and values such as ``fault.k=12`` are set on a copy. Whatever fails there (an unknown key,
a mistyped value) goes to Hydra itself, whose message names it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from circa_train.config.naming import register_resolver


class TemplateLoader:
    """Hydra's config loader with quick ``load_sweep_config``; everything else is passed on.

    It travels to the workers of parallel launchers, where unpickling it is what registers the resolver.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._templates: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_loader" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"_loader": self._loader, "_templates": {}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        register_resolver()
        self.__dict__.update(state)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """One job's configuration, as Hydra composes it."""
        choices = master_config.hydra.runtime.choices
        parsed = OverridesParser.create().parse_overrides(list(sweep_overrides))
        values = [override for override in parsed if _sets_a_value(override, choices)]
        template_overrides = [str(o.input_line) for o in parsed if not any(o is v for v in values)]
        try:
            config = copy.deepcopy(self._template(master_config, template_overrides))
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return self._loader.load_sweep_config(master_config, list(sweep_overrides))
        with open_dict(config):
            task = [o for o in parsed if not o.is_hydra_override()]
            config.hydra.overrides.task = [o.input_line for o in task]
            how = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                overrides=task, kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
            )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _template(self, master_config: DictConfig, overrides: list[str]) -> DictConfig:
        key = tuple(sorted(overrides))
        if key not in self._templates:
            self._templates[key] = self._loader.load_sweep_config(master_config, overrides)
        return self._templates[key]


def _sets_a_value(override: Override, choices: Mapping[str, Any]) -> bool:
    """Is it a plain ``key=value`` on a leaf, as opposed to a choice of group, an addition, a deletion, or one
    for Hydra?
    """
    key = override.key_or_group
    return (
        override.type == OverrideType.CHANGE
        and override.package is None
        and not override.is_sweep_override()
        and not override.is_hydra_override()
        and "/" not in key
        and key not in choices
    )
