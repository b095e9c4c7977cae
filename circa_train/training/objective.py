"""What is minimised, and how a network is called: cross-entropy, distillation, precision and memory
format.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.training.settings import TrainingSettings


def logits_of(network: nn.Module, images: Tensor, settings: TrainingSettings) -> Tensor:
    """float32 logits (n, classes), computed in the precision and memory format of the settings."""
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    precision: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if settings.precision == "bfloat16":
        precision = torch.autocast(images.device.type, dtype=torch.bfloat16)
    with precision:
        return network(images).float()


def loss_sum(
    logits: Tensor, labels: Tensor, settings: TrainingSettings, teacher_logits: Tensor | None = None
) -> Tensor:
    """The loss summed over images, so that parts of a batch add up to the whole.

    With the weight w and the temperature T of distillation: (1 - w) CE + w T^2 KL(teacher/T || student/T).
    The factor T^2 keeps the size of the gradient independent of T (Hinton, Vinyals, Dean, arXiv 1503.02531).
    """
    loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=settings.label_smoothing)
    if teacher_logits is None:
        return loss
    weight, temperature = settings.distillation_weight, settings.distillation_temperature
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return (1 - weight) * loss + weight * temperature**2 * divergence


def training_mode(model: nn.Module, settings: TrainingSettings) -> None:
    """``model.train()``, but with BatchNorm on its stored statistics if the settings freeze it."""
    model.train()
    if settings.freeze_batchnorm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
