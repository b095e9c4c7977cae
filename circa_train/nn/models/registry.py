"""Networks by name: ``build_model``, and the translation of foreign checkpoints' parameter names.

A built model is a plain ``nn.Module`` that knows nothing of faults; conversion (``nn/convert.py``) is where
networks and faults meet. What ``build_model`` was called with is what a checkpoint records, so every argument
is a number, a string, None, or the reduction's plain dict.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from circa_train import user_code
from circa_train.nn.models.reduction import Reduction, reduce_relus
from circa_train.nn.models.resnet import CIFAR_DEPTHS, cifar_resnet, resnet18
from circa_train.nn.models.vgg import VGG16
from circa_train.nn.module_tree import kept_modes

TORCHVISION_PREFIX = "torchvision:"
_CIFAR_FAMILY = {f"resnet{depth}": depth for depth in CIFAR_DEPTHS}
_OURS = (*_CIFAR_FAMILY, "resnet18", "vgg16")

Factory = Callable[..., nn.Module]



#: Networks of the user's own by name.
_REGISTERED: dict[str, Factory] = {}


def register_model(name: str, factory: Factory) -> None:
    """Make a network of your own known by ``name``: to :func:`build_model`, and to every script as
    ``model.name=<name>``.

    Args:
        name: a name that no network of ours has.
        factory: returns the network, freshly initialised. It is called with those of ``num_classes``,
            ``image_size``, ``in_channels`` (and of the options given to ``build_model``) that it takes.

    Raises:
        ValueError: if the name is one of ours, or holds a colon.
    """
    if not name or ":" in name or name in _OURS:
        raise ValueError(f"a network cannot be called {name!r}: give it a name of its own, without a colon")
    _REGISTERED[name] = factory


def model_names() -> tuple[str, ...]:
    """The names ``build_model`` knows, registered and installed ones last; with <...> those that stand for
    many.
    """
    own = (*_REGISTERED, *user_code.plug_ins("models"))
    return (*_OURS, f"{TORCHVISION_PREFIX}<name>", f"{user_code.PREFIX}<module or file.py>:<name>", *own)


def build_model(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    in_channels: int = 3,
    shortcut: str | None = None,
    width: float | None = None,
    dropout: float | None = None,
    reduction: Reduction | Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> nn.Module:
    """A freshly initialised network with one nn.ReLU per site.

    Args:
        name: one of ``model_names()``, e.g. "resnet32" or "torchvision:mobilenet_v3_small".
        num_classes: outputs.
        image_size: side of the square images. It fixes VGG-16's first fully connected layer and the mask
            shapes of a reduction; residual networks take any other size too.
        in_channels: channels of the images; torchvision's classifiers take 3 only.
        shortcut: "A" or "B" for residual networks; None is A for the CIFAR family and B for resnet18.
        width: factor on the channels (residual networks and vgg16); None is 1.
        dropout: vgg16 only; None is 0.5.
        options: arguments of a network of your own.
        reduction: which ReLUs are gone, see ``nn/reduced.py``.
        seed: draws the weights from a generator of its own and leaves torch's alone; None uses torch's global
            one.

    Raises:
        ValueError: an unknown name, a size the network cannot take, or an option that it does not have.
        ImportError: a torchvision model is asked for and torchvision does not import.
    """
    for label, value in (
        ("num_classes", num_classes),
        ("image_size", image_size),
        ("in_channels", in_channels),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{label} must be a positive integer, not {value!r}")
    own = _own_factory(name)
    if own is None and options:
        raise ValueError(f"model {name!r} has no options {dict(options)}; only a network of your own has")
    with _own_generator(seed):
        if own is not None:
            sizes = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
            given = {"shortcut": shortcut, "width": width, "dropout": dropout, **(options or {})}
            model: nn.Module = _own_model(name, own, sizes, {k: v for k, v in given.items() if v is not None})
        elif name in _CIFAR_FAMILY or name == "resnet18":
            _refuse_options(name, dropout=dropout)
            chosen: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
            chosen |= {} if shortcut is None else {"shortcut": shortcut}
            chosen |= {} if width is None else {"width": width}
            model = (
                resnet18(**chosen) if name == "resnet18" else cifar_resnet(_CIFAR_FAMILY[name], **chosen)
            )
        elif name == "vgg16":
            _refuse_options(name, shortcut=shortcut)
            chosen = {} if width is None else {"width": width}
            chosen |= {} if dropout is None else {"dropout": dropout}
            model = VGG16(num_classes=num_classes, image_size=image_size, in_channels=in_channels, **chosen)
        elif name.startswith(TORCHVISION_PREFIX):
            _refuse_options(name, shortcut=shortcut, width=width, dropout=dropout)
            model = _torchvision_model(
                name.removeprefix(TORCHVISION_PREFIX), num_classes, image_size, in_channels
            )
        else:
            raise ValueError(f"there is no model {name!r}; there are {', '.join(model_names())}")
    if reduction is not None:
        model = reduce_relus(model, reduction, (in_channels, image_size, image_size))
    return model


def check_name(name: str) -> bool:
    """Whether a name stands for a network of the user's own, which is looked up: ValueError if a reference
    leads nowhere.
    """
    return _own_factory(name) is not None


def _own_factory(name: str) -> Factory | None:
    """The factory of a reference, a registered name or a plug-in; None if it is none of these."""
    if user_code.is_reference(name):
        found: Factory = user_code.load(name)
        return found
    if name in _REGISTERED:
        return _REGISTERED[name]
    plug_in = user_code.plug_ins("models").get(name)
    return None if plug_in is None else plug_in.load()


def _own_model(
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


@contextlib.contextmanager
def _own_generator(seed: int | None) -> Iterator[None]:
    """Initialise from ``seed`` without moving the generator that the caller's code draws from."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _refuse_options(name: str, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(f"model {name!r} has no option {option!r} (given: {value!r}); leave it out")


def _torchvision_model(name: str, num_classes: int, image_size: int, in_channels: int) -> nn.Module:
    try:
        from torchvision import models
    # a torchvision built for another torch fails with RuntimeError
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"model '{TORCHVISION_PREFIX}{name}' needs torchvision, which does not import here ({error}); "
            "install the torchvision that matches your torch"
        ) from error
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}; it has {', '.join(known)}")
    if in_channels != 3:
        raise ValueError(f"torchvision's {name} takes 3 channels, not {in_channels}; use one of "
                         f"{', '.join(_OURS)}, which take any number")
    options: dict[str, Any] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # Without auxiliary heads the output is one tensor of logits in training too, as the training loop
        # expects.
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        options |= {"image_size": image_size}
    try:
        model = models.get_model(name, weights=None, **options)
        with kept_modes(model), torch.no_grad():
            model.eval()(torch.zeros(1, in_channels, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"torchvision's {name} cannot take images of side {image_size}: {error}") from error
    return model


_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
_SYNONYMS = ((".downsample.", ".shortcut."), ("fc.", "linear."))


def translate_keys(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the entries of a foreign checkpoint to the names ``model`` uses; nothing is dropped or reshaped.

    - Prefixes ``module.`` and ``_orig_mod.`` go, in any order and number.
    - ``downsample`` <-> ``shortcut`` and ``fc`` <-> ``linear``, in whichever direction the model needs.
    - BatchNorm counters (``num_batches_tracked``) that old files lack are taken from the model, if the file
      has that layer's running mean. They do not enter any output.

    A key that still does not fit is kept, so that the loader can name it. Two keys that would get the same
    name are a ValueError.
    """
    expected = model.state_dict()
    translated: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _translate(key, expected)
        if name in translated:
            raise ValueError(f"the checkpoint has two entries for {name!r}; the second is {key!r}")
        translated[name] = value
    counter = "num_batches_tracked"
    for key, value in expected.items():
        if (
            key.endswith(counter)
            and key not in translated
            and key.removesuffix(counter) + "running_mean" in translated
        ):
            translated[key] = value.clone()
    return translated


def _translate(key: str, expected: Mapping[str, Tensor]) -> str:
    while key not in expected and key.startswith(_WRAPPERS):
        key = key.split(".", 1)[1]
    if key in expected:
        return key
    for one, other in _SYNONYMS:
        for old, new in ((one, other), (other, one)):
            starts = not old.startswith(".")
            found = key.startswith(old) if starts else old in key
            if found and (candidate := key.replace(old, new, 1)) in expected:
                return candidate
    return key
