"""The dataclasses of the jobs as Hydra's schemas: a mistyped key or value fails when Hydra composes, and is
named.

Sign tests are schemas, too: one for every model that is registered, ours, installed plug-ins and the user's
own alike, made from the fields of its class. So ``fault.k=many`` is refused by its type, whoever wrote the
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore

from circa_train import user_code
from circa_train.fault import SignTest, sign_test_kinds
from circa_train.jobs import settings, two_party
from circa_train.jobs.mirror import mirrored

#: Schemas by their place among the configuration groups.
SCHEMAS: dict[str, type] = {
    "hydra/schema/train": settings.TrainConfig,
    "hydra/schema/evaluate": settings.EvaluateConfig,
    "hydra/schema/verify": settings.VerifyConfig,
    "hydra/schema/cost": settings.CostConfig,
    "hydra/schema/search": settings.SearchConfig,
    "hydra/schema/equalize": settings.EqualizeConfig,
    "hydra/schema/export": settings.ExportConfig,
    "hydra/schema/plot": settings.PlotConfig,
    "hydra/schema/serve": two_party.ServeConfig,
    "hydra/schema/deal": two_party.DealConfig,
    "hydra/schema/infer": two_party.InferConfig,
    "hydra/schema/benchmark": settings.BenchmarkConfig,
    "hydra/schema/reduction/none": settings.ReductionConfig,
    "hydra/schema/reduction/removal": settings.RemovalConfig,
    "hydra/schema/reduction/snl": settings.LearnedReductionConfig,
    "hydra/schema/fault/file": settings.FileFaultConfig,
    "hydra/schema/fault/checkpoint": settings.CheckpointFaultConfig,
}

#: Defaults of a fault section that the model itself leaves open.
_DEFAULTS = {"truncated_sign": {"k": 12}}


def store_schemas(own_fault: str | None = None) -> None:
    """Make the schemas known to Hydra; YAML files take them up as ``/hydra/schema/<name>@_here_``.

    They lie below ``hydra``, whose groups ``--help`` does not list.

    Args:
        own_fault: what the command line gives as ``fault.path`` beside ``fault=python``: the user's own sign
            test.
    """
    store = ConfigStore.instance()
    for point in user_code.plug_ins("sign_tests").values():
        point.load()  # defining its class registers it
    nodes = dict(SCHEMAS)
    for kind in sign_test_kinds():
        nodes[f"hydra/schema/fault/{kind}"] = _of_kind(kind)
        if not sign_test_kinds()[kind].__module__.startswith("circa_train."):
            nodes[f"fault/{kind}"] = _of_kind(kind)
    nodes["hydra/schema/fault/python"] = settings.PythonFaultConfig if own_fault is None else _own(own_fault)
    for place, node in nodes.items():
        group, name = place.rsplit("/", 1)
        store.store(group=group, name=name, node=node)


def own_fault(arguments: Sequence[str]) -> str | None:
    """The reference to a sign test of the user's own on a command line: ``fault=python
    fault.path=<reference>``.
    """
    if not any(argument.lstrip("+") == "fault=python" for argument in arguments):
        return None
    paths = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("fault.path=")]
    return paths[-1].strip("'\"") if paths else None


def __getattr__(name: str) -> Any:
    """Schemas of sign tests, by names from which they can be made again: a configuration travels to other
    processes.
    """
    if name.startswith("_KIND_"):
        return _of_kind(bytes.fromhex(name.removeprefix("_KIND_")).decode())
    if name.startswith("_OWN_"):
        return _own(bytes.fromhex(name.removeprefix("_OWN_")).decode())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _of_kind(kind: str) -> type:
    test = sign_test_kinds()[kind]
    return _schema(f"_KIND_{kind.encode().hex()}", test, kind=kind)


def _own(reference: str) -> type:
    test = user_code.load(reference)
    if not (isinstance(test, type) and issubclass(test, SignTest)):
        raise ValueError(f"fault.path = {reference!r} is not a class derived from circa_train.SignTest")
    return _schema(f"_OWN_{reference.encode().hex()}", test, kind="python", path=reference)


def _schema(name: str, test: type[SignTest], **fixed: str) -> type:
    """A fault section: what every sign test needs, and the fields of this one."""
    if name not in globals():
        globals()[name] = mirrored(
            name, test, base=settings.FaultConfig, extra=fixed, values=_DEFAULTS.get(test.kind)
        )
        # what a message about a mistyped key calls it; its qualified name is what pickle goes by
        globals()[name].__name__ = f"the fault model {fixed.get('path', test.kind)}"
    made: type = globals()[name]
    return made
