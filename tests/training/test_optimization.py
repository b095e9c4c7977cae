from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from circa_train.training import TrainingSettings
from circa_train.training.objective import loss_sum
from circa_train.training.optimization import build_optimizer, learning_rate
from circa_train.training.step import MovingAverage


def rates(settings: TrainingSettings, steps_per_epoch: int) -> list[float]:
    return [
        learning_rate(settings, step, steps_per_epoch) for step in range(settings.epochs * steps_per_epoch)
    ]


def test_warmup_rises_to_the_peak_whatever_follows() -> None:
    for schedule in ("cosine", "triangular", "step", "constant"):
        course = rates(TrainingSettings(epochs=8, warmup_epochs=2.0, schedule=schedule, learning_rate=1.0), 5)
        assert course[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert course[10] == max(course) == 1.0


def test_cosine_and_triangular_fall_to_nothing() -> None:
    for schedule, half in (("cosine", 0.5), ("triangular", 0.5)):
        settings = TrainingSettings(epochs=12, warmup_epochs=2.0, schedule=schedule, learning_rate=1.0)
        course = rates(settings, 10)[20:]
        assert all(a > b for a, b in itertools.pairwise(course))
        assert course[50] == pytest.approx(half)
        assert learning_rate(settings, 120, 10) == pytest.approx(0.0)


def test_step_falls_at_its_milestones() -> None:
    course = rates(
        TrainingSettings(
            epochs=10, schedule="step", learning_rate=1.0, milestones=(0.3, 0.8), step_factor=0.5
        ),
        1,
    )
    assert course == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_biases_and_norms_are_not_decayed_unless_asked(optimizer: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    groups = build_optimizer(model, TrainingSettings(optimizer=optimizer, weight_decay=0.1)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decays[id(p)] for p in model.parameters()] == [0.1, 0, 0, 0, 0.1, 0]
    all_decayed = TrainingSettings(optimizer=optimizer, weight_decay=0.1, decay_norm_and_bias=True)
    groups = build_optimizer(model, all_decayed).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1]
    assert len(groups[0]["params"]) == 6


def test_moving_average_is_the_recursion_with_its_warm_up() -> None:
    model = nn.BatchNorm1d(2)
    tied = nn.Sequential(model, nn.Linear(2, 2), nn.Linear(2, 2))
    tied[2].weight = tied[1].weight  # a tied weight is averaged once, not twice
    average = MovingAverage(tied, decay=0.5)
    expected = tied[1].weight.detach().clone()
    for n in range(20):
        with torch.no_grad():
            tied[1].weight.add_(1.0)
        tied(torch.randn(4, 2))
        average.update(n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * tied[1].weight.detach()
    torch.testing.assert_close(average.model[1].weight, expected)
    assert average.model[2].weight is average.model[1].weight
    assert int(average.model[0].num_batches_tracked) == 20
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_distillation_ends_are_cross_entropy_and_the_soft_one() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(6) % 5
    plain = TrainingSettings(label_smoothing=0.1)
    expected = nn.functional.cross_entropy(student, labels, label_smoothing=0.1) * 6
    torch.testing.assert_close(loss_sum(student, labels, plain), expected)
    soft = TrainingSettings(distillation_weight=1.0, distillation_temperature=3.0)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    torch.testing.assert_close(loss_sum(student, labels, soft, teacher), 9 * (p * (p / q).log()).sum())
    assert float(loss_sum(teacher, labels, soft, teacher)) == pytest.approx(0.0, abs=1e-12)


def test_loss_adds_up_over_parts() -> None:
    logits, labels = torch.randn(8, 3, dtype=torch.float64), torch.arange(8) % 3
    settings = TrainingSettings(label_smoothing=0.2)
    parts = [loss_sum(logits[i : i + 2], labels[i : i + 2], settings) for i in range(0, 8, 2)]
    torch.testing.assert_close(sum(parts), loss_sum(logits, labels, settings))
