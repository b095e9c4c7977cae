"""What every job can be told: one dataclass per job, put together from sections.

These are plain dataclasses, for callers from Python and for Hydra alike (``circa_train.config`` registers
them as the schemas of the YAML files, so a mistyped key or value fails when Hydra composes). They say which
keys there are and of which type; what a value may be (k below the bit length of the prime, a rate in [0, 1],
a model that exists) is checked by building the object it describes, before anything is loaded. Fields that
describe settings of another part are mirrored from there, names and defaults. Nothing here imports torch, so
that ``--help`` and a re-launch of a finished sweep stay quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from circa_train.benchmark.sizes import BenchmarkSizes
from circa_train.jobs.mirror import MISSING, mirrored
from circa_train.runs import WandbSettings
from circa_train.search.settings import SearchSettings
from circa_train.training.reduction_settings import ReductionSettings
from circa_train.training.settings import TrainingSettings


@dataclass
class ModelConfig:
    """Arguments of ``build_model``; classes, image size and channels come from the data."""

    name: str = MISSING
    shortcut: str | None = None
    width: float | None = None
    dropout: float | None = None
    reduction: Any = None  # a dict; with a type that says so it could not be set from the command line
    options: Any = None  # a dict: further arguments of a network of your own


#: Random changes to training images, in pixels: the fields ``augment_...`` of the training settings.
AugmentConfig: Any = mirrored(
    "AugmentConfig", TrainingSettings, {f"augment_{name}": name for name in ("crop", "flip", "cutout")}
)


@dataclass
class DataConfig:
    """Arguments of ``load_data``; ``root`` and ``download`` do not enter a run's identity."""

    name: str = MISSING
    root: str = "data"
    download: bool = False
    validation_fraction: float = 0.1
    seed: int = 0
    limit: int | None = None
    image_size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class FaultConfig:
    """What every sign test needs beside its own parameters.

    ``frac_bits: auto`` takes the checkpoint's own value if it was trained with faults, and otherwise fits one
    on training images, ``headroom_bits`` below the largest that does not overflow. ``per_channel`` chooses
    those of every channel by the exact law. Else a number, or a file that says them by site. ``headroom_bits:
    null`` is 5 for one number for all, and 2 per channel. ``rescale_bits`` of them
    are dropped behind every ReLU, rounded as two parties do it: 0 for none.
    """

    kind: str = MISSING
    frac_bits: int | str = "auto"
    headroom_bits: int | None = None
    rescale_bits: int = 0
    seed: int = 0
    overflow: str = "raise"


#: Fields of the fault section that are not the sign test's own.
COMMON = ("frac_bits", "headroom_bits", "rescale_bits", "seed", "overflow")


@dataclass
class FileFaultConfig(FaultConfig):
    """One spec per site, as the search writes it: ``{"sites": {name: spec}, "frac_bits": ...}`` in YAML or
    JSON.
    """

    kind: str = "file"
    path: str = MISSING


@dataclass
class CheckpointFaultConfig(FaultConfig):
    """The sign tests that the checkpoint was trained with."""

    kind: str = "checkpoint"


@dataclass
class PythonFaultConfig(FaultConfig):
    """A fault model of your own: ``path`` is ``file.py:Class`` or ``package.module:Class``, its fields are
    keys beside it.
    """

    kind: str = "python"
    path: str = MISSING


#: The optimiser's part of the training settings.
OptimConfig: Any = mirrored(
    "OptimConfig",
    TrainingSettings,
    (
        "optimizer", "learning_rate", "momentum", "nesterov", "weight_decay", "decay_norm_and_bias",
        "schedule",
        "warmup_epochs", "milestones", "step_factor", "clip_norm",
    ),
)  # fmt: skip

_WandbFields: Any = mirrored("_WandbFields", WandbSettings, ("mode", "project", "entity", "group", "tags"))


@dataclass
class TrackerConfig(_WandbFields):
    """Where metrics go beside ``metrics.jsonl``, which is always written: nowhere (``jsonl``) or to Weights &
    Biases.
    """

    name: str = "jsonl"


@dataclass
class RunConfig:
    """How and where a job runs; nothing here changes its result, so nothing here enters its identity.

    ``name`` replaces the label in front of the folder's hash, ``sweep`` names the folder of a multirun,
    ``again`` ignores a finished result. ``progress`` shows bars on a terminal, and elsewhere a line every
    half minute. ``trust_code`` imports code that a checkpoint names: a network, a data set or a fault model
    of somebody's own.
    """

    root: str = "runs"
    name: str | None = None
    sweep: str = "sweep"
    device: str = "auto"
    threads: int | None = None
    progress: bool = True
    again: bool = False
    trust_code: bool = False


@dataclass
class TrainRunConfig(RunConfig):
    """``save_every``: epochs between two states to resume from; a kill loses as many at most."""

    save_every: int = 1


@dataclass
class DrawsConfig:
    """Fault draws: ``count``, or as many more, up to ``most``, as make the 95% interval no wider than
    ``until_width``.
    """

    count: int = 5
    until_width: float | None = None
    most: int = 50


@dataclass
class ReductionConfig:
    """Which ReLUs go before the network is fine-tuned: none."""

    method: str = "none"


@dataclass
class RemovalConfig(ReductionConfig):
    """Whole sites by rule, as DeepReDuce has them; the fields are those of ``model.reduction``."""

    method: str = "removal"
    stages: list[str] = field(default_factory=list)
    alternate: Any = False  # true, or the names of stages
    sites: list[str] = field(default_factory=list)


_LearnedFields: Any = mirrored("_LearnedFields", ReductionSettings, base=ReductionConfig)


@dataclass
class LearnedReductionConfig(_LearnedFields):
    """Selective network linearisation. What is not told here is ``ReductionSettings`` under the same names.

    ``budget`` counts ReLUs, or, with ``unit: bytes``, what they cost under the sign test ``price`` in the
    ``accounting`` of :mod:`circa_train.cost`. ``price`` is a sign test such as ``{kind: truncated_sign, k:
    12}``, or ``{path: FILE}`` of one per site.
    """

    method: str = "snl"
    unit: str = "relus"
    price: Any = None
    accounting: str = "labels"


_TrainingFields: Any = mirrored("_TrainingFields", TrainingSettings, without=(AugmentConfig, OptimConfig))


@dataclass
class TrainConfig(_TrainingFields):
    """Training. What is not in a section is ``TrainingSettings`` under the same names.

    ``checkpoint`` gives the first weights (fine-tuning), ``teacher`` a network to distil from. In Python a
    :class:`RunConfig` will do for ``run``.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: TrainRunConfig = field(default_factory=TrainRunConfig)
    checkpoint: str | None = None
    teacher: str | None = None

    def __post_init__(self) -> None:
        if type(self.run) is RunConfig:
            self.run = TrainRunConfig(**vars(self.run))


@dataclass
class EvaluateConfig:
    """An evaluation. ``rescaling`` is for export folders: null is the one that the folder was made for.
    ``precision`` and ``channels_last`` say how a network computes
    (:class:`circa_train.evaluation.Computing`), ``fold_batchnorm`` that BatchNorm is a part of the
    convolutions before it (:func:`circa_train.nn.with_folded_batch_norms`).
    """

    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    draws: DrawsConfig = field(default_factory=DrawsConfig)
    split: str = "test"
    batch_size: int = 256
    sites: bool = False
    rescaling: str | None = None
    precision: str = "float32"
    channels_last: bool = False
    fold_batchnorm: bool = False


@dataclass
class CheckConfig:
    """What is verified: ``sites`` is ``all``, a name, a list of names, or how many, spread evenly over the
    network.

    ``samples`` is how many sign tests per site go through the two-party protocol; ``all``: 4096, and
    every sign test of every image is garbled and evaluated. ``images`` takes the first so many (null: all
    there are), ``batch_size`` at a time (null: 16 for samples, 256 for all, as an evaluation does).
    ``seed`` makes the two parties' secrets repeatable; null is how a protocol has to run.
    """

    sites: Any = "all"
    samples: Any = 4096  # a number or "all"
    images: int | None = None
    batch_size: int | None = None
    transport: str = "memory"
    seed: int | None = None


@dataclass
class VerifyConfig:
    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    run: RunConfig = field(default_factory=RunConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    verify: CheckConfig = field(default_factory=CheckConfig)
    split: str = "test"


#: Fault draws per candidate: ``count``, doubled while it is undecided, up to ``most``.
SearchDrawsConfig: Any = mirrored(
    "SearchDrawsConfig", SearchSettings, {"draws": "count", "max_draws": "most"}
)

_SearchFields: Any = mirrored(
    "_SearchFields",
    SearchSettings,
    ("gates", "budget", "margin", "joint", "per_site", "trials", "images", "batch_size"),
)


@dataclass
class SearchConfig(_SearchFields):
    """The search for k, modes and scales. What is not in a section is ``SearchSettings`` under its name.

    ``fault`` is the network as it is, which the answer is compared with. ``decide_on: test`` is for weights
    that have seen the validation images: every other test image decides, and the rest confirm. ``gates`` asks
    for an allocation of so many AND gates per sign test instead, and nothing decides or is compared.
    """

    decide_on: str = "validation"
    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    draws: SearchDrawsConfig = field(default_factory=SearchDrawsConfig)


@dataclass
class CostConfig:
    """Networks to price: every one of ``models`` at every side of ``image_sizes``, for colour images."""

    models: list[str] = field(default_factory=lambda: ["resnet18", "resnet32", "vgg16"])
    image_sizes: list[int] = field(default_factory=lambda: [32, 64])
    num_classes: int = 10
    fault: FaultConfig = field(default_factory=FaultConfig)
    timed: bool = True
    out: str | None = None
    run: RunConfig = field(default_factory=RunConfig)


@dataclass
class ExportDrawsConfig(DrawsConfig):
    """Fault draws of the accuracy that the manifest quotes; an integer network is slow, and fewer do."""

    count: int = 3


@dataclass
class ExportConfig:
    """An export.

    ``fault.frac_bits: auto`` takes the checkpoint's own, and else chooses from ``calibration_images``
    training images: activations and weights of ``value_bits``, ``fault.headroom_bits`` to spare. ``images``
    of the split, evenly spaced, give the accuracy (null: all) under each rescaling, and ``vectors`` of them
    the test vectors. ``rescaling`` is the one that the folder is meant for. Integer logits (exact
    ReLUs, calibration images) further from the network's own than ``largest_error`` of the largest are
    refused.
    """

    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    draws: ExportDrawsConfig = field(default_factory=ExportDrawsConfig)
    split: str = "test"
    images: int | None = 1000
    batch_size: int = 128
    calibration_images: int = 256
    value_bits: int = 15
    weight_frac_bits: int | None = None
    rescaling: str = "offset"
    largest_error: float = 0.25
    vectors: int = 20


@dataclass
class EqualizeConfig:
    """A rewriting: scales chosen on ``calibration_images`` training images, powers of two from 2^``lowest``
    to 2^``highest``; the largest value of a channel, times 2^``headroom_bits``, must fit into the field.
    """

    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    calibration_images: int = 256
    batch_size: int = 64
    lowest: int = -8
    highest: int = 8
    headroom_bits: int = 2


@dataclass
class BenchmarkConfig:
    benchmark: BenchmarkSizes = field(default_factory=BenchmarkSizes)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass
class PlotConfig:
    """Which results are collected, from run folders, tables and records, and what is made of them; ``report``
    adds one page with all of it.
    """

    runs: Any = MISSING
    out: str = "runs/plots"
    where: dict[str, Any] = field(default_factory=dict)
    formats: list[str] = field(default_factory=lambda: ["png", "svg", "pdf"])
    tolerance: float = 0.01
    report: bool = False
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)
