"""VGG-16 as private inference uses it (Simonyan and Zisserman, ICLR 2015, configuration D).

Thirteen 3x3 convolutions, BatchNorm after each, five 2x2 poolings, two hidden fully connected layers. Pooling
is by *averages*: an average is linear and so free on secret shares, a maximum would be a garbled circuit per
window.

Module names are those of torchvision's ``vgg16_bn`` (``features.0`` ... ``features.43``,
``classifier.0/3/6``), so its convolutions can be loaded as they are; its first fully connected layer expects
7x7 maps and does not fit small images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from circa_train.nn.models.resnet import scaled_widths

# (width, convolutions), a pooling after each block
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
HIDDEN = 4096
REDUCTION = 2 ** len(BLOCKS)  # one side of the image shrinks by this factor


class VGG16(nn.Module):
    """VGG-16 with BatchNorm and average pooling, for images whose side is a multiple of 32.

    Args:
        num_classes: outputs.
        image_size: side of the square input; it fixes the inputs of the first fully connected layer.
        in_channels: channels of the input images.
        dropout: probability after each hidden fully connected layer, in training mode only.
        width: factor on the channels of the convolutions (the fully connected layers keep 4096).

    Convolutions start Kaiming-normal for ReLU, fully connected layers normal(0, 0.01), from torch's
    generator.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: int,
        in_channels: int = 3,
        dropout: float = 0.5,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if image_size < REDUCTION or image_size % REDUCTION:
            raise ValueError(
                f"vgg16 halves the image {len(BLOCKS)} times: image_size must be a multiple of {REDUCTION}, "
                f"not {image_size}; resize the images or use a ResNet"
            )
        layers: list[nn.Module] = []
        in_width = in_channels
        widths = scaled_widths([block_width for block_width, _ in BLOCKS], width)
        for out_width, (_, convolutions) in zip(widths, BLOCKS, strict=True):
            for _ in range(convolutions):
                # BatchNorm would cancel a bias; it is kept (at zero) because vgg16_bn checkpoints carry one.
                layers += [nn.Conv2d(in_width, out_width, 3, padding=1), nn.BatchNorm2d(out_width), nn.ReLU()]
                in_width = out_width
            layers.append(nn.AvgPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(in_width * (image_size // REDUCTION) ** 2, HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, num_classes),
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                # No BatchNorm here: He-scaled weights would start far above a loss of log(num_classes) and
                # overshoot.
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, image_size, image_size) -> logits (N, num_classes)."""
        return self.classifier(torch.flatten(self.features(x), 1))

    def relu_stages(self) -> dict[str, tuple[str, ...]]:
        """The ReLU sites by stage, in the order they run: "block1" ... "block5" and "classifier"."""
        stages: dict[str, tuple[str, ...]] = {}
        index = 0
        for number, (_, convolutions) in enumerate(BLOCKS, start=1):
            stages[f"block{number}"] = tuple(
                f"features.{index + 3 * conv + 2}" for conv in range(convolutions)
            )
            index += 3 * convolutions + 1
        stages["classifier"] = ("classifier.1", "classifier.4")
        return stages
