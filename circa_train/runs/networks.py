"""Which network a row of the table is about, and what was done to it.

    network    the checkpoint by a short name: its run folder, or its file
    weights    first digits of the SHA-256 of its bytes: two networks of one name differ here
    method     what was done to it, in words: ``as it is``, or some of METHODS
    seed       of its training
    recipe     equal for two trainings that differ in the seed alone, from data to epochs

So networks of one recipe are repetitions of one experiment, and everything else is another experiment. A
checkpoint of before there were recipes, or of somebody else, has none and stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from circa_train.files import json_digest
from circa_train.runs.folder import identity

#: What can be done to a network, in the order in which it is said; nothing of it: AS_IT_IS.
METHODS = ("reduced", "equalized", "fine-tuned", "searched", "integer")
AS_IT_IS = "as it is"

_DIGITS = 10

#: Checkpoints that a job writes into its folder: the folder's name says more. Of a training's last state it
#: does not say enough.
_OF_A_FOLDER, _LAST = ("best.pt", "equalized.pt"), "last.pt"


def recipe(config: Mapping[str, Any], started_from: str | None = None) -> str:
    """What trainings that differ in their seed alone have in common, as ten digits.

    Args:
        config: of the training, resolved.
        started_from: what its first weights are: the recipe of their own training where that is known, so
            that fine-tuning two seeds of one baseline is one recipe, else the digest of their file.

    >>> recipe({"epochs": 3, "seed": 0}) == recipe({"epochs": 3, "seed": 1})
    True
    >>> recipe({"epochs": 3, "seed": 0}) == recipe({"epochs": 4, "seed": 0})
    False
    """
    known = {key: value for key, value in identity(config).items() if key not in ("seed", "checkpoint")}
    return json_digest([known, started_from])[:_DIGITS]


def network_name(checkpoint: str) -> str:
    """A checkpoint's short name.

    >>> network_name("runs/train/seed0-0123456789/best.pt"), network_name("data/resnet32-d509ac18.th")
    ('seed0-0123456789', 'resnet32-d509ac18.th')
    """
    path = PurePath(checkpoint)
    if path.name in _OF_A_FOLDER and path.parent.name:
        return path.parent.name
    inside = path.name == _LAST or not path.suffix  # an export is a folder in its run's folder
    return f"{path.parent.name}/{path.name}" if inside and path.parent.name else path.name


def method_name(
    model: str,
    *,
    equalized: bool = False,
    finetuned: bool = False,
    by_site: bool = False,
    integer: bool = False,
) -> str:
    """What was done to a network, in words.

    Args:
        model: its description; ``reduced`` is a word of it.
        equalized: were its channels rescaled for its sign tests?
        finetuned: was it trained with faults in the loop?
        by_site: has every site a sign test of its own, as a search writes them?
        integer: was it exported, and run on integers?

    >>> method_name("resnet32 reduced", finetuned=True), method_name("resnet32")
    ('reduced, fine-tuned', 'as it is')
    """
    done = ("reduced" in model.split(), equalized, finetuned, by_site, integer)
    return ", ".join(name for name, was in zip(METHODS, done, strict=True) if was) or AS_IT_IS


def short_digest(digest: str | None) -> str | None:
    """As many digits of a file's digest as tell networks apart."""
    return None if digest is None else digest[:_DIGITS]


def network_columns(result: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The columns above, from an evaluation's result and the digests of the files that it read."""
    training = result.get("training") or {}
    weights = (inputs or {}).get("checkpoint")
    return {
        "network": network_name(str(result.get("checkpoint"))),
        "method": method_name(
            str(result.get("model")),
            equalized=bool(result.get("equalized")),
            finetuned=bool(result.get("finetuned")),
            by_site="sites" in result["fault"],
            integer=result.get("rescaling") is not None,
        ),
        "seed": training.get("seed"),
        "recipe": training.get("recipe"),
        "weights": short_digest(weights),
    }
