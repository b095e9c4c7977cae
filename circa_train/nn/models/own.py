"""Networks of the user's own: registered by name, installed as plug-ins, or referred to by
``python:...:name``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from circa_train import user_code

Factory = Callable[..., nn.Module]

#: Those that are known by name.
OWN = user_code.Registry("models", "a network")


def register_model(name: str, factory: Factory) -> None:
    """Make a network of your own known by ``name``: to :func:`build_model`, and to every script as
    ``model.name=<name>``.

    Args:
        name: a name that no network of ours has.
        factory: returns the network, freshly initialised. It is called with those of ``num_classes``,
            ``image_size``, ``in_channels`` (and of the options given to ``build_model``) that it takes.

    Raises:
        ValueError: if the name is empty or holds a colon.
    """
    OWN.register(name, factory)


def check_name(name: str) -> bool:
    """Whether a name stands for a network of the user's own, which is looked up: ValueError if a reference
    leads nowhere.
    """
    return OWN.find(name) is not None


def make_own(
    name: str, factory: Factory, sizes: Mapping[str, Any], options: Mapping[str, Any]
) -> nn.Module:
    """Call a factory with what it takes; a network that is there already is copied."""
    if isinstance(factory, nn.Module):
        return copy.deepcopy(factory)
    taken = inspect.signature(factory).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
    unknown = [key for key in options if key not in taken and not takes_all]
    if unknown:
        raise ValueError(
            f"model {name!r} has no option {', '.join(unknown)}; it takes {', '.join(taken) or 'nothing'}"
        )
    model = factory(**{key: value for key, value in sizes.items() if key in taken or takes_all}, **options)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model {name!r} is a {type(model).__name__}, not a torch.nn.Module")
    return model
