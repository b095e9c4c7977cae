"""The fault section of a configuration: one sign test, one per site from a file, the checkpoint's own, or the
user's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from circa_train import user_code
from circa_train.evaluation import check_draws
from circa_train.fault import SignTest, TruncatedSign, sign_test_from_dict
from circa_train.field import as_int
from circa_train.fixed_point import FracBits, frac_bits_text
from circa_train.jobs.inputs import FROM_CHECKPOINT, naming_its_fault
from circa_train.jobs.mirror import MISSING
from circa_train.jobs.settings import COMMON, DrawsConfig, FaultConfig
from circa_train.nn import frac_bits_by_site
from circa_train.nn.site_values import HEADROOM_BITS

#: ``fault.frac_bits`` that are found by calibration: the largest safe number for all sites, or what the law
#: says is best for every channel.
AUTO, PER_CHANNEL = "auto", "per_channel"

#: ``fault.headroom_bits: null`` stands for these.
_HEADROOM = {PER_CHANNEL: HEADROOM_BITS}
_OTHER_HEADROOM = 5

Faults = SignTest | dict[str, SignTest]


@dataclass(frozen=True)
class FaultPlan:
    """The fault section, checked.

    Attributes:
        faults: one spec for all sites, or one per site.
        frac_bits: fraction bits: of all sites, or by site a number or one per channel; None for those that
            are found by calibration.
        per_channel: calibration is to find them for every channel.
        description: what results record: the spec's dict, or ``{"sites": {name: dict}}``.
    """

    faults: Faults
    frac_bits: int | dict[str, FracBits] | None
    description: dict[str, Any]
    per_channel: bool = False

    def __post_init__(self) -> None:
        specs = self.faults.values() if isinstance(self.faults, dict) else [self.faults]
        other = next((spec for spec in specs if not (spec.is_exact or type(spec) is TruncatedSign)), None)
        if self.per_channel and other is not None:
            raise ValueError(
                f"fault.frac_bits={PER_CHANNEL} goes by the law of Circa's truncated sign, and this is "
                f"{other.kind!r}; give fault.frac_bits={AUTO} or a number"
            )

    @property
    def severity(self) -> str | None:
        """The field that says how severe the faults are, where one sign test stands at all sites."""
        return self.faults.severity if isinstance(self.faults, SignTest) else None

    @property
    def exact(self) -> bool:
        """Is there no fault at all?"""
        return isinstance(self.faults, SignTest) and self.faults.is_exact

    @property
    def prime(self) -> int:
        specs = self.faults.values() if isinstance(self.faults, dict) else [self.faults]
        return min(spec.prime for spec in specs)


def check_fault(section: FaultConfig) -> None:
    """:func:`build_fault` as far as it goes without a checkpoint: scripts refuse bad values before they load
    anything.
    """
    build_fault(section, {"fault": {"kind": "none"}} if section.kind == FROM_CHECKPOINT else None)


def headroom_bits(section: FaultConfig) -> int:
    """Bits that calibration leaves above what it sees; the default belongs to the way of choosing."""
    if section.headroom_bits is not None:
        return section.headroom_bits
    return _HEADROOM.get(str(section.frac_bits), _OTHER_HEADROOM)


def refuse_rescale_bits(section: FaultConfig, instead: str) -> None:
    """ValueError with the remedy, where a job does not simulate a rescaling."""
    if section.rescale_bits:
        raise ValueError(f"fault.rescale_bits = {section.rescale_bits} does nothing here; {instead}")


def refuse_counts(draws: DrawsConfig, batch_size: int) -> None:
    """ValueError for numbers of fault draws or images that no evaluation takes."""
    check_draws(draws.count, draws.until_width, draws.most)
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: at least one image at a time")


def build_fault(
    section: FaultConfig, metadata: Mapping[str, Any] | None = None, trust_code: bool = False
) -> FaultPlan:
    """Check and build the sign tests that a fault section describes; ``fault=checkpoint`` needs the
    checkpoint's metadata.

    Raises:
        ValueError: a value outside its range (k for the prime, rate, bit window, frac_bits), or a fault file
            that is not one.
        FileNotFoundError: if ``fault.path``, or a file of fraction bits, does not exist.
    """
    if section.overflow not in ("raise", "wrap", "saturate"):
        raise ValueError(f"fault.overflow = {section.overflow!r} is not one of raise, wrap, saturate")
    if not 0 <= section.rescale_bits <= 28:
        raise ValueError(
            f"fault.rescale_bits = {section.rescale_bits} is outside [0, 28]; 0 rescales nothing"
        )
    chosen, per_channel = _frac_bits(section.frac_bits), section.frac_bits == PER_CHANNEL
    fields = {key: value for key, value in asdict(section).items() if key not in COMMON}
    if section.kind == FROM_CHECKPOINT:
        trained = (metadata or {}).get("fault")
        if trained is None:
            raise ValueError(
                "fault=checkpoint: this one was trained with exact ReLUs; give fault=poszero or another"
            )
        _know(metadata or {}, trust_code)
        fields = dict(trained)
    if "sites" in fields:
        sites = {name: sign_test_from_dict(description) for name, description in fields["sites"].items()}
        return FaultPlan(sites, chosen, {"sites": fields["sites"]}, per_channel)
    if section.kind == "python":
        fields = _own_fields(fields)
    if section.kind != "file":
        spec = sign_test_from_dict(fields)
        return FaultPlan(spec, chosen, spec.to_dict(), per_channel)
    sites, stored_bits = read_fault_file(fields["path"])
    description = {"sites": {name: spec.to_dict() for name, spec in sites.items()}}
    if chosen is None and not per_channel:
        chosen = stored_bits
    return FaultPlan(sites, chosen, description, per_channel)


def _frac_bits(given: int | str) -> int | dict[str, FracBits] | None:
    """``fault.frac_bits``: a number, those of a file, or None for those that calibration finds."""
    if given in (AUTO, PER_CHANNEL):
        return None
    if isinstance(given, int):
        if not 0 <= given <= 30:
            raise ValueError(f"fault.frac_bits = {given} is outside [0, 30]")
        return given
    if not Path(given).is_file():
        raise ValueError(
            f"fault.frac_bits = {given!r} is neither a number of bits, nor {AUTO} or {PER_CHANNEL}, nor a "
            "file that exists (YAML or JSON with 'frac_bits': a number, or {site: a number, or a list of one "
            "per channel})"
        )
    content = _read_file(Path(given), "fault.frac_bits")
    found = _stored_frac_bits(content, given)
    if found is None:
        raise ValueError(f"{given} (fault.frac_bits) has no 'frac_bits'")
    return found


def single_frac_bits(plan: FaultPlan, metadata: Mapping[str, Any]) -> int | None:
    """The one number of fraction bits that an integer network has: the plan's, else that which the checkpoint
    recorded, else None. ValueError where channels or sites have their own.
    """
    frac_bits = metadata.get("frac_bits") if plan.frac_bits is None else plan.frac_bits
    if not plan.per_channel and (frac_bits is None or isinstance(frac_bits, int)):
        return frac_bits
    found = PER_CHANNEL if plan.per_channel or frac_bits is None else frac_bits_text(frac_bits)
    if metadata.get("equalized"):
        number = metadata["equalized"]["frac_bits"]
        remedy = f"This checkpoint was rewritten for {number} at all sites: give fault.frac_bits={number}"
    else:
        remedy = (
            "Put them into the weights first: scripts/equalize.py with the same checkpoint= and fault= "
            "writes equalized.pt and says how it is exported"
        )
    raise ValueError(
        f"fraction bits that differ by site or channel ({found}) cannot be exported: an integer network has "
        f"one scale for all of a layer's values. {remedy}"
    )


def _know(metadata: Mapping[str, Any], trust_code: bool) -> None:
    """Import the fault model that a checkpoint was trained with, if it is somebody's own and that is
    allowed.
    """
    code = metadata.get("fault_code")
    if code is not None:
        user_code.require_named({code: naming_its_fault(metadata)}, trusted=trust_code)
        own_sign_test(code)


def own_sign_test(reference: str) -> type[SignTest]:
    """The class of a fault model of the user's own, by ``file.py:Class`` or ``package.module:Class``.

    Raises:
        ValueError: if there is no such class, or it is no :class:`~circa_train.fault.SignTest`.
    """
    found = user_code.load(reference)
    if not (isinstance(found, type) and issubclass(found, SignTest) and hasattr(found, "kind")):
        raise ValueError(
            f"fault.path = {reference!r} is not a class derived from circa_train.SignTest with a kind"
        )
    return found


def _own_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The section of ``fault=python`` as a sign test's description, every value of the type that its field
    says.
    """
    reference = fields.pop("path")
    test = own_sign_test(reference)
    del fields["kind"]
    return {"kind": test.kind, **{key: value for key, value in fields.items() if value != MISSING}}


def read_fault_file(path: str | Path) -> tuple[dict[str, SignTest], int | dict[str, FracBits] | None]:
    """Specs by site, and the fraction bits they were chosen for, from YAML or JSON ``{"sites": {name: spec},
    "frac_bits": n}``; n may be ``{name: a number, or a list of one per channel}``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else; the site is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no fault file {path} (fault.path); scripts/search.py writes one")
    content = _read_file(path, "fault.path")
    if not isinstance(content.get("sites"), Mapping) or not content["sites"]:
        raise ValueError(
            f"fault file {path} has no 'sites', which map site names to specs: "
            f"{{kind: truncated_sign, k: 12}}"
        )
    sites = {}
    for name, description in content["sites"].items():
        try:
            sites[str(name)] = sign_test_from_dict(description)
        except (ValueError, TypeError) as error:
            raise type(error)(f"fault file {path}, site {name}: {error}") from error
    return sites, _stored_frac_bits(content, str(path))


def _read_file(path: Path, key: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"fault file {path} ({key}) is neither YAML nor JSON: {error}") from error
    return content if isinstance(content, Mapping) else {}


def _stored_frac_bits(content: Mapping[str, Any], path: str) -> int | dict[str, FracBits] | None:
    stored = content.get("frac_bits")
    if stored is None:
        return None
    try:
        if isinstance(stored, Mapping):
            return frac_bits_by_site({str(name): bits for name, bits in stored.items()}, map(str, stored))
        return as_int("frac_bits", stored)
    except (ValueError, TypeError) as error:
        raise type(error)(f"fault file {path}: {error}") from error
