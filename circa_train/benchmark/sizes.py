"""How large the benchmark's tensors are, and how often it measures."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class BenchmarkSizes:
    """How large the benchmark's tensors are and how many pairs are timed, on those of the ``devices`` that
    are there. Circuits, private inference and the input pipeline are rows of the CPU.
    """

    name: str = "quick"
    devices: list[str] = field(default_factory=lambda: ["cpu", "cuda"])
    shape: list[int] = field(default_factory=lambda: [128, 64, 32, 32])
    pairs: int = 20
    evaluation_model: str = "resnet32"
    evaluation_batch: int = 128
    training_model: str = "resnet18"
    training_batch: int = 32
    network_pairs: int = 5
    sweep_images: int = 1024
    sweep_points: int = 4
    sweep_pairs: int = 3
    law_elements: int = 2**22
    circuit_instances: int = 2**13
    circuit_pairs: int = 10
    pipeline_images: int = 10_000
    pipeline_pairs: int = 3
    two_party_model: str = "resnet32"
    two_party_ks: list[int] = field(default_factory=lambda: [12])
    two_party_repeats: int = 5
    two_party_everything: bool = False
    profiles: bool = False
