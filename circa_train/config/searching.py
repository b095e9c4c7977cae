"""From the configuration of a search to its settings."""

from __future__ import annotations

from circa_train.config.build import FaultPlan
from circa_train.config.schema import SearchConfig
from circa_train.fault import TruncatedSign
from circa_train.search import SearchSettings


def build_search(config: SearchConfig, plan: FaultPlan) -> tuple[SearchSettings, TruncatedSign]:
    """Settings, and the sign test whose mode and prime the search keeps while it varies k.

    Raises:
        ValueError: for a value outside its range, or a fault that has no k.
    """
    spec = plan.faults
    if not isinstance(spec, TruncatedSign) or not isinstance(spec.k, int):
        raise ValueError(
            f"fault.kind = {config.fault.kind!r} has no k to search for; give fault=poszero or fault=negpass"
        )
    settings = SearchSettings(
        budget=config.budget,
        first_k=spec.k,
        draws=config.draws.count,
        max_draws=config.draws.most,
        per_site=config.per_site,
        trials=config.trials,
        images=config.images,
        batch_size=config.batch_size,
    )
    return settings, spec
