"""The contract of a sign test: what the rest of the package may ask of a fault model, whichever it is.

A sign test answers [x > 0] for a secret x from random masks, and sometimes answers wrongly. One frozen
dataclass describes one model: its parameters are its fields, and its methods are its law. Networks, kernels,
curricula, costs, records and plots ask these methods only, so a model of your own is one class::

    @dataclass(frozen=True)
    class Coin(SignTest):
        \"\"\"[x > 0], flipped for one mask in ``sides``.\"\"\"
        sides: int = 1000
        kind = "coin"

        @property
        def mask_count(self):
            return 2**32

        def gate(self, x, mask):
            return (x > 0) ^ (mask < 2**32 // self.sides)

        def counts(self, x):
            return ((x != 0) * (2**32 // self.sides),)

Defining the class registers it under its ``kind``. ``circa_train.testing.check_sign_test`` tells whether
gate, masks and counts agree. Nothing here imports torch, so that kinds can be listed quickly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from circa_train.field import DEFAULT_PRIME
from circa_train.user_code import plug_ins

if TYPE_CHECKING:
    from torch import Tensor

#: What may be the cause of a fault. A model names its own among them in ``SignTest.kinds``.
FAULT_KINDS = ("wrap", "truncation", "flip")

#: Every model that was defined, by kind.
_REGISTRY: dict[str, type[SignTest]] = {}


class SignTest(ABC):
    """A fault model. Subclasses are frozen dataclasses, and register themselves by ``kind``.

    Values x are centred integers of Z_p: an int, or an int64 tensor of any shape whose dimension 1 is the
    channel.

    Attributes:
        kind: the name in configurations, checkpoints and records.
        kinds: causes of faults, of :data:`FAULT_KINDS`, in the order of :meth:`counts`.
        severity: the field that says how severe the faults are (sweeps and curricula vary it); None: there is
            none.
        shown: fields that a run folder's name shows; by default the severity.
        is_exact: no mask is drawn and no fault made.
        by_channel: a parameter differs by channel (dimension 1 of the activation).
        prime: the field whose range bounds the values; a model over a field of its own has ``prime`` among
            its fields.
    """

    kind: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("flip",)
    severity: ClassVar[str | None] = None
    shown: ClassVar[tuple[str, ...] | None] = None
    is_exact: ClassVar[bool] = False
    by_channel: bool = False
    prime: int = DEFAULT_PRIME

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" in cls.__dict__:
            _register(cls)
        elif hasattr(cls, "kind"):
            raise TypeError(
                f"{cls.__name__} is another test than {cls.kind!r}, which it derives from: give it a kind"
            )

    @property
    @abstractmethod
    def mask_count(self) -> int:
        """How many masks there are, all equally likely: p, 2^32 words, ...; 1 if the test draws none."""

    @abstractmethod
    def gate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The answer: a bool tensor, True where y = x comes out. ``x`` and ``mask`` are int64 and
        broadcast.
        """

    @abstractmethod
    def counts(self, x: Any) -> tuple[Any, ...]:
        """For each of ``kinds``: of all masks, how many make the test of x wrong for this cause. 0 at x = 0.

        Exact integers for an int x; for an int64 tensor a tensor of counts (float64 where int64 would not
        hold them).
        """

    def masks_at(self, elements: Tensor, *, seed: int, site: int, draw: int | Tensor) -> Tensor | None:
        """The masks that belong to an address: int64, uniform over the ``mask_count`` masks, shaped like
        ``elements``.

        By default uniform on [0, mask_count), which must then be an odd prime below 2^31 or 2^32; None for
        one mask.

        Args:
            elements: int64, the elements' numbers within the draw.
            seed, site, draw: see :mod:`circa_train.fault.masks`.
        """
        from circa_train.fault import masks

        if self.mask_count == 1:
            return None
        if self.mask_count == 2**32:
            return masks.words_at(elements, seed=seed, site=site, draw=draw)
        return masks.masks_at(elements, seed=seed, site=site, draw=draw, prime=self.mask_count)

    def cause(self, x: Tensor, mask: Tensor | None) -> Tensor | int:
        """Which of ``kinds`` a fault on ``x`` under ``mask`` would be, as an index; by default the first."""
        return 0

    def check_values(self, x: Any) -> None:  # noqa: B027 - most models take any value
        """ValueError if an int x, or a value of a tensor, is outside the range of the test. By default none
        is.
        """

    def count(self, x: Tensor) -> Tensor:
        """The sum of :meth:`counts` for values that are in range; a model may have a faster way to it."""
        return sum(self.counts(x))

    def channels(self) -> tuple[Self, ...]:
        """The sign test of every channel, each without a parameter that differs; one for all unless
        ``by_channel``.
        """
        return (self,)

    def at_level(self, level: float) -> Self:
        """This test with the fraction ``level`` of its severity; 1.0 is the test itself.

        A whole number of bits k becomes one of k + 1 equal parts, rounded down, so that a level uniform on
        [0, 1) makes it uniform on {0, ..., k}; a rate is multiplied.
        """
        if level == 1.0 or self.severity is None:
            return self
        return replace(self, **{self.severity: _part(getattr(self, self.severity),
        level)})  # type: ignore[type-var]

    @classmethod
    def label(cls, description: Mapping[str, Any]) -> str:
        """A short name of a description (:meth:`to_dict`) for folders: ``poszero-k12``, or the kind."""
        fields = ((cls.severity,) if cls.severity else ()) if cls.shown is None else cls.shown
        parts = [(name, description[name]) for name in fields if name in description]
        return "-".join(str(v) if isinstance(v, str) else f"{name}{v}" for name, v in parts) or cls.kind

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, ``{"kind": ..., <fields>}``. Inverse of :func:`sign_test_from_dict`."""
        values = {f.name: getattr(self, f.name) for f in fields_of(self)}  # type: ignore[arg-type]
        return {"kind": self.kind} | {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}


def sign_test_kinds() -> dict[str, type[SignTest]]:
    """Every model there is, by kind: ours, and those that the program has defined."""
    return dict(_REGISTRY)


def sign_test_from_dict(description: Mapping[str, Any]) -> SignTest:
    """Rebuild a sign test from :meth:`SignTest.to_dict`'s form; ValueError or TypeError names what is wrong
    with it.
    """
    given = dict(description)
    kind = given.pop("kind", None)
    if kind not in _REGISTRY and kind in plug_ins("sign_tests"):
        plug_ins("sign_tests")[kind].load()  # defining its class registers it
    if kind not in _REGISTRY:
        raise UnknownKind(
            f"fault kind {kind!r} is not one of {', '.join(_REGISTRY)}; if it is a model of your own, import "
            "the module "
            "that defines it first (in a script: fault=python fault.path=<file or module>:<class>)"
        )
    known = [field.name for field in fields_of(_REGISTRY[kind])]  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(known))
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"fault kind {kind!r} has no field {names}; it has {', '.join(known) or 'none'}")
    return _REGISTRY[kind](**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


class UnknownKind(ValueError):
    """A description names a kind of sign test that the program does not know."""


def _register(cls: type[SignTest]) -> None:
    """Enter a model; redefining the same class (in a notebook, say) replaces it, another of its kind is
    refused.
    """
    if cls.kinds == () or not set(cls.kinds) <= set(FAULT_KINDS):
        raise ValueError(
            f"{cls.__name__}.kinds = {cls.kinds!r}: name the causes of its faults, of {FAULT_KINDS}"
        )
    other = _REGISTRY.get(cls.kind, cls)
    if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(
            f"fault kind {cls.kind!r} is {other.__module__}.{other.__qualname__} already; "
            f"give {cls.__module__}.{cls.__qualname__} another kind"
        )
    _REGISTRY[cls.kind] = cls


def _part(value: Any, level: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_part(each, level) for each in value)
    return min(int(level * (value + 1)), value) if isinstance(value, int) else value * level
