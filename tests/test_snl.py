"""SNL's own checkpoints: a network of their form, its masks and weights in ours, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circa_train.checkpoint import CheckpointError, load_snl, load_state_into
from circa_train.nn import build_model

SHAPES = {"layer1": (4, 8, 8), "layer2": (8, 4, 4), "layer3": (16, 2, 2)}


class Layer(nn.Module):
    """A ReLU layer as their state_dict has it, by the formula of the paper."""

    def __init__(self, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        kept = torch.rand((1, *shape), generator=generator) < 0.4
        self.alphas = nn.Parameter(kept.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.alphas * F.relu(x) + (1 - self.alphas) * x


def theirs() -> nn.Module:
    """ResNet-8 of a quarter of the width, each block's ReLUs as theirs, none behind the stem."""
    model = build_model("resnet8", num_classes=4, image_size=8, in_channels=1, width=0.25, seed=3)
    generator = torch.Generator().manual_seed(1)
    model.relu = nn.Identity()
    for stage, shape in SHAPES.items():
        block = model.get_submodule(f"{stage}.0")
        for number in (1, 2):
            setattr(block, f"relu{number}", Layer(shape, generator))
    return model.eval()


def their_state(model: nn.Module) -> dict[str, Tensor]:
    return {name.replace(".relu", ".alpha"): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_their_network_computes_the_same_in_ours(tmp_path: Path, prefix: str) -> None:
    model = theirs()
    state = {prefix + name: value for name, value in their_state(model).items()}
    torch.save({"arch": "resnet8_in", "state_dict": state, "optimizer": {}}, tmp_path / "best.pth.tar")
    weights, masks = load_snl(tmp_path / "best.pth.tar")
    assert set(masks) == {f"{stage}.0.relu{number}" for stage in SHAPES for number in (1, 2)}
    ours = build_model(
        "resnet8", num_classes=4, image_size=8, in_channels=1, width=0.25, seed=0,
        reduction={"sites": ["relu"], "masks": masks},
    ).eval()  # fmt: skip
    load_state_into(ours, weights)
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), model(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value * 0.5, "layer1.0.alpha1.alphas has values other than 0 and 1"),
        (lambda value: value[0], r"has the shape \(4, 8, 8\); SNL's have \(1, C, H, W\)"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, change, said: str) -> None:
    state = their_state(theirs())
    state["layer1.0.alpha1.alphas"] = change(state["layer1.0.alpha1.alphas"])
    torch.save({"state_dict": state}, tmp_path / "best.pth.tar")
    with pytest.raises(CheckpointError, match=said):
        load_snl(tmp_path / "best.pth.tar")


def test_a_checkpoint_without_masks_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no entry like layer1.0.alpha1.alphas"):
        load_snl(tmp_path / "other.pt")
