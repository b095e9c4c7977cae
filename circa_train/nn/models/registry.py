"""Networks by name: ``build_model``, and the translation of foreign checkpoints' parameter names.

A built model is a plain ``nn.Module`` that knows nothing of faults; conversion (``nn/convert.py``) is where
networks and faults meet. What ``build_model`` was called with is what a checkpoint records, so every argument
is a number, a string, None, or the reduction's plain dict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from circa_train import user_code
from circa_train.nn.models.own import OWN, make_own
from circa_train.nn.models.reduction import Reduction, reduce_relus
from circa_train.nn.models.resnet import CIFAR_DEPTHS, cifar_resnet, resnet18
from circa_train.nn.models.vgg import VGG16
from circa_train.nn.module_tree import kept_modes

#: What a network may have at most; beyond is a mistake, or somebody's attempt to fill the memory.
MAX_CLASSES = 100_000
MAX_CHANNELS = 4096
MAX_IMAGE_SIZE = 2048
MAX_PARAMETERS = 1 << 29

TORCHVISION_PREFIX = "torchvision:"
_CIFAR_FAMILY = {f"resnet{depth}": depth for depth in CIFAR_DEPTHS}
_OURS = (*_CIFAR_FAMILY, "resnet18", "vgg16")

def model_names() -> tuple[str, ...]:
    """The names ``build_model`` knows, registered and installed ones too; the last stands for every
    classifier of torchvision. ``python:<module or file.py>:<name>`` names any other network.
    """
    return (*_OURS, *OWN.names(), f"{TORCHVISION_PREFIX}<name>")


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
        ValueError: an unknown name, a size the network cannot take, or an option that it does not have; more
            classes, channels, pixels or parameters than the limits of this module, before memory is taken.
        ImportError: a torchvision model is asked for and torchvision does not import.
    """
    if not isinstance(name, str):
        raise ValueError(f"the name of a model is text, not {name!r}")
    for label, value, limit in (
        ("num_classes", num_classes, MAX_CLASSES),
        ("image_size", image_size, MAX_IMAGE_SIZE),
        ("in_channels", in_channels, MAX_CHANNELS),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{label} must be a positive integer, not {value!r}")
        if value > limit:
            raise ValueError(f"{label} = {value}: a network may have at most {limit}")
    own = OWN.find(name)
    if own is None and options:
        raise ValueError(f"model {name!r} has no options {dict(options)}; only a network of your own has")
    with _own_generator(seed):
        if own is not None:
            sizes = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
            given = {"shortcut": shortcut, "width": width, "dropout": dropout, **(options or {})}
            model: nn.Module = make_own(name, own, sizes, {k: v for k, v in given.items() if v is not None})
        elif name in _CIFAR_FAMILY or name == "resnet18":
            _refuse_options(name, dropout=dropout)
            chosen: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
            chosen |= {} if shortcut is None else {"shortcut": shortcut}
            chosen |= {} if width is None else {"width": width}
            make: Callable[..., nn.Module] = (
                resnet18 if name == "resnet18" else partial(cifar_resnet, _CIFAR_FAMILY[name])
            )
            _refuse_giants(name, make, chosen)
            model = make(**chosen)
        elif name == "vgg16":
            _refuse_options(name, shortcut=shortcut)
            chosen = {} if width is None else {"width": width}
            chosen |= {} if dropout is None else {"dropout": dropout}
            chosen |= {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
            _refuse_giants(name, VGG16, chosen)
            model = VGG16(**chosen)
        elif name.startswith(TORCHVISION_PREFIX):
            _refuse_options(name, shortcut=shortcut, width=width, dropout=dropout)
            model = _torchvision_model(
                name.removeprefix(TORCHVISION_PREFIX), num_classes, image_size, in_channels
            )
        else:
            raise ValueError(
                f"there is no model {name!r}; there are {', '.join(model_names())}, "
                f"and {user_code.PREFIX}<module or file.py>:<name> for one of your own"
            )
    if reduction is not None:
        model = reduce_relus(model, reduction, (in_channels, image_size, image_size))
    return model


def _refuse_giants(name: str, make: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Count the parameters of a network of unusual size before any memory is taken for it."""
    usual = {"width": 2, "num_classes": 10_000, "image_size": 256, "in_channels": 64}
    if all(options.get(option, 0) <= size for option, size in usual.items()):
        return
    with torch.device("meta"), _WithoutDraws():
        parameters = sum(parameter.numel() for parameter in make(**options).parameters())
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            f"{name} with {dict(options)} would have {parameters:,} parameters, and at most "
            f"{MAX_PARAMETERS:,} are built"
        )


class _WithoutDraws(TorchFunctionMode):
    """Leaves out the drawing of initial weights, which a tensor without values does not need."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if function in (Tensor.normal_, nn.init.normal_):
            return given["tensor"] if "tensor" in given else args[0]
        return function(*args, **given)


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
