from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from circa_train.training import TrainingSettings


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("epochs", 0, ValueError),
        ("epochs", 1.5, TypeError),
        ("batch_size", True, TypeError),
        ("accumulate", 0, ValueError),
        ("validation_draws", 0, ValueError),
        ("seed", -1, ValueError),
        ("augment_crop", -1, ValueError),
        ("augment_cutout", "2", TypeError),
        ("augment_flip", 1, TypeError),
        ("nesterov", "yes", TypeError),
        ("compile", None, TypeError),
        ("optimizer", "adam", ValueError),
        ("schedule", "linear", ValueError),
        ("precision", "float16", ValueError),
        ("curriculum", "falling", ValueError),
        ("curriculum_epochs", 3, ValueError),
        ("learning_rate", 0.0, ValueError),
        ("learning_rate", float("nan"), ValueError),
        ("learning_rate", "0.1", TypeError),
        ("momentum", 1.0, ValueError),
        ("weight_decay", -1e-4, ValueError),
        ("step_factor", 0.0, ValueError),
        ("milestones", (0.7, 0.5), ValueError),
        ("milestones", (0.5, 1.0), ValueError),
        ("label_smoothing", 1.0, ValueError),
        ("clip_norm", 0.0, ValueError),
        ("ema_decay", 1.0, ValueError),
        ("warmup_epochs", 31.0, ValueError),
        ("distillation_weight", 1.1, ValueError),
        ("distillation_temperature", 0.0, ValueError),
    ],
)
def test_bad_value_is_refused_with_field_and_value(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=field) as refused:
        TrainingSettings(**{field: value})
    assert str(value) in str(refused.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentum": 0.0}, "nesterov = True needs a momentum"),
        ({"schedule": "triangular"}, "warmup_epochs, which is 0"),
        ({"batch_size": 10, "accumulate": 4}, "no multiple of accumulate = 4"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**values)


def test_settings_are_plain_values() -> None:
    settings = TrainingSettings(milestones=[0.3, 0.6])  # type: ignore[arg-type]
    assert settings.milestones == (0.3, 0.6)
    assert TrainingSettings(**dataclasses.asdict(settings)) == settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.epochs = 2  # type: ignore[misc]
