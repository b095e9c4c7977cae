"""Typed schemas of every configuration: a mistyped key or value fails when Hydra composes, and is named.

The dataclasses only say which keys there are and of which type. What a value may be (k below the bit length
of the prime, a rate in [0, 1], a model that exists) is checked by ``circa_train.config.build`` before
anything is loaded. Nothing here imports torch, so that ``--help`` and a re-launch of a finished sweep stay
quick.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional, Union

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from circa_train.benchmark.sizes import BenchmarkSizes
from circa_train.field import DEFAULT_PRIME

# OmegaConf reads annotations at run time and knows Optional and Union, but not every spelling with "|".
# ruff: noqa: UP007, UP045


@dataclass
class ModelConfig:
    """Arguments of ``build_model``; classes, image size and channels come from the data."""

    name: str = MISSING
    shortcut: Optional[str] = None
    width: Optional[float] = None
    dropout: Optional[float] = None
    reduction: Any = None  # a dict; Optional[dict] could not be set from the command line


@dataclass
class AugmentConfig:
    """Random changes to training images, in pixels."""

    crop: int = 0
    flip: bool = False
    cutout: int = 0


@dataclass
class DataConfig:
    """Arguments of ``load_data``; ``root`` and ``download`` do not enter a run's identity."""

    name: str = MISSING
    root: str = "data"
    download: bool = False
    validation_fraction: float = 0.1
    seed: int = 0
    limit: Optional[int] = None
    image_size: Optional[int] = None
    mean: Optional[list[float]] = None
    std: Optional[list[float]] = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class FaultConfig:
    """What every sign test needs beside its own parameters.

    ``frac_bits: auto`` takes the checkpoint's own value if it was trained with faults, and otherwise fits one
    on training images, ``headroom_bits`` below the largest that does not overflow.
    """

    kind: str = MISSING
    frac_bits: Union[int, str] = "auto"
    headroom_bits: int = 5
    seed: int = 0
    overflow: str = "raise"


@dataclass
class NoFaultConfig(FaultConfig):
    kind: str = "none"


@dataclass
class TruncatedConfig(FaultConfig):
    kind: str = "truncated_sign"
    k: int = 12
    mode: str = "poszero"
    prime: int = DEFAULT_PRIME


@dataclass
class UniformConfig(FaultConfig):
    kind: str = "uniform"
    rate: float = 1e-3
    direction: str = "both"


@dataclass
class BitWindowConfig(FaultConfig):
    kind: str = "bit_window"
    low: int = 0
    high: int = 63


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
class OptimConfig:
    """The optimiser's part of ``TrainingSettings``, under the same names."""

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = False
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    step_factor: float = 0.1
    clip_norm: Optional[float] = None


@dataclass
class TrackerConfig:
    """Where metrics go beside ``metrics.jsonl``, which is always written: nowhere (``jsonl``) or to Weights &
    Biases.
    """

    name: str = "jsonl"
    mode: str = "offline"
    project: str = "circa_train"
    entity: Optional[str] = None
    group: Optional[str] = None
    tags: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    """How and where a job runs; nothing here changes its result, so nothing here enters its identity.

    ``name`` replaces the label in front of the folder's hash, ``sweep`` names the folder of a multirun,
    ``again`` ignores a finished result.
    """

    root: str = "runs"
    name: Optional[str] = None
    sweep: str = "sweep"
    device: str = "auto"
    threads: Optional[int] = None
    progress: bool = True
    again: bool = False


@dataclass
class DrawsConfig:
    """Fault draws: ``count``, or as many more, up to ``most``, as make the 95% interval no wider than
    ``until_width``.
    """

    count: int = 5
    until_width: Optional[float] = None
    most: int = 50


@dataclass
class TrainConfig:
    """Training. What is not in a section is ``TrainingSettings`` under the same names.

    ``checkpoint`` gives the first weights (fine-tuning), ``teacher`` a network to distil from.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    run: RunConfig = field(default_factory=RunConfig)
    checkpoint: Optional[str] = None
    teacher: Optional[str] = None
    epochs: int = 30
    batch_size: int = 128
    seed: int = 0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    freeze_batchnorm: bool = False
    curriculum: str = "none"
    curriculum_epochs: Optional[int] = None
    distillation_weight: float = 0.0
    distillation_temperature: float = 4.0
    validation_draws: int = 1


@dataclass
class EvaluateConfig:
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


@dataclass
class CheckConfig:
    """What is verified: ``sites`` is ``all``, a name, a list of names, or how many, spread evenly over the
    network.

    ``seed`` makes the two parties' secrets repeatable; null is how a protocol has to run.
    """

    sites: Any = "all"
    samples: int = 4096
    transport: str = "memory"
    seed: Optional[int] = None


@dataclass
class VerifyConfig:
    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    run: RunConfig = field(default_factory=RunConfig)
    verify: CheckConfig = field(default_factory=CheckConfig)
    split: str = "test"


@dataclass
class SearchDrawsConfig:
    """Fault draws per candidate: ``count``, doubled while it is undecided, up to ``most``."""

    count: int = 5
    most: int = 40


@dataclass
class SearchConfig:
    """The search for k. What is not in a section is ``SearchSettings`` under the same names."""

    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    run: RunConfig = field(default_factory=RunConfig)
    budget: float = 0.01
    draws: SearchDrawsConfig = field(default_factory=SearchDrawsConfig)
    per_site: bool = True
    trials: int = 8
    images: int = 256
    batch_size: int = 256


@dataclass
class CostConfig:
    """Networks to price: every one of ``models`` at every side of ``image_sizes``, for colour images."""

    models: list[str] = field(default_factory=lambda: ["resnet18", "resnet32", "vgg16"])
    image_sizes: list[int] = field(default_factory=lambda: [32, 64])
    num_classes: int = 10
    fault: FaultConfig = field(default_factory=FaultConfig)
    timed: bool = True
    out: Optional[str] = None
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
    of the split, evenly spaced, give the accuracy (null: all), and ``vectors`` of them the test vectors.
    """

    checkpoint: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fault: FaultConfig = field(default_factory=FaultConfig)
    run: RunConfig = field(default_factory=RunConfig)
    draws: ExportDrawsConfig = field(default_factory=ExportDrawsConfig)
    split: str = "test"
    images: Optional[int] = 1000
    batch_size: int = 128
    calibration_images: int = 256
    value_bits: int = 15
    weight_frac_bits: Optional[int] = None
    rescaling: str = "floor"
    vectors: int = 2


@dataclass
class BenchmarkConfig:
    benchmark: BenchmarkSizes = field(default_factory=BenchmarkSizes)
    run: RunConfig = field(default_factory=RunConfig)


@dataclass
class PlotConfig:
    runs: Any = MISSING
    out: str = "runs/plots"
    where: dict[str, Any] = field(default_factory=dict)
    formats: list[str] = field(default_factory=lambda: ["png", "svg"])
    tolerance: float = 0.01
    run: RunConfig = field(default_factory=RunConfig)


#: Schema nodes by their place among the configuration groups.
SCHEMAS: dict[str, type] = {
    "hydra/schema/train": TrainConfig,
    "hydra/schema/evaluate": EvaluateConfig,
    "hydra/schema/verify": VerifyConfig,
    "hydra/schema/cost": CostConfig,
    "hydra/schema/search": SearchConfig,
    "hydra/schema/export": ExportConfig,
    "hydra/schema/plot": PlotConfig,
    "hydra/schema/benchmark": BenchmarkConfig,
    "hydra/schema/fault/none": NoFaultConfig,
    "hydra/schema/fault/truncated_sign": TruncatedConfig,
    "hydra/schema/fault/uniform": UniformConfig,
    "hydra/schema/fault/bit_window": BitWindowConfig,
    "hydra/schema/fault/file": FileFaultConfig,
    "hydra/schema/fault/checkpoint": CheckpointFaultConfig,
}


def store_schemas() -> None:
    """Make the nodes known to Hydra; YAML files take them up as ``/hydra/schema/<name>@_here_``.

    They lie below ``hydra``, whose groups ``--help`` does not list.
    """
    store = ConfigStore.instance()
    for place, node in SCHEMAS.items():
        group, name = place.rsplit("/", 1)
        store.store(group=group, name=name, node=node)
