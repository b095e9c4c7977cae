"""Folding: the same logits, every BatchNorm accounted for, the given model untouched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from circa_train import TruncatedSign, build_model, with_stochastic_relus
from circa_train.export import ExportError, Fold, fold_batch_norms


def unsettled(model: nn.Module) -> nn.Module:
    """BatchNorm statistics and parameters far from the initial ones."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return model.eval()


class PreActivation(nn.Module):
    """BatchNorm before the convolution, once behind a sum that is read twice; dropout by flag; an
    identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4)
        self.identity = nn.Identity()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x)
        y = self.norm2(self.second(self.identity(self.relu(self.norm(x))))) + x
        return self.fc(nn.functional.dropout(y, 0.5, training=self.training).mean((2, 3)))


MODELS = {
    "resnet A": lambda: build_model("resnet8", num_classes=4, image_size=16, width=0.5, shortcut="A", seed=0),
    "resnet B": lambda: build_model("resnet8", num_classes=4, image_size=16, width=0.5, shortcut="B", seed=0),
    "vgg": lambda: build_model("vgg16", num_classes=4, image_size=32, width=0.0625, seed=0),
    "pre-activation": PreActivation,
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_stay_within_a_hundred_thousandth(name):
    model = unsettled(MODELS[name]())
    x = torch.randn(
        8,
        3,
        32 if name == "vgg" else 16,
        32 if name == "vgg" else 16,
        generator=torch.Generator().manual_seed(1),
    )
    folded, folds = fold_batch_norms(model)
    with torch.no_grad():
        wanted, found = model(x), folded(x)
    assert float((wanted - found).norm() / wanted.norm()) < 1e-5
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    norms = [
        name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    assert sorted(fold.batch_norm for fold in folds) == sorted(norms)


def test_the_report_says_which_went_where():
    _, folds = fold_batch_norms(unsettled(MODELS["resnet B"]()))
    assert Fold("layer2.0.shortcut.1", "layer2.0.shortcut.0") in folds
    _, folds = fold_batch_norms(unsettled(PreActivation()))
    assert folds == (Fold("norm", "norm"), Fold("norm2", "second"))


def test_the_model_is_left_as_it_was():
    model = unsettled(MODELS["resnet A"]()).train()
    before = copy.deepcopy(model.state_dict())
    converted = with_stochastic_relus(model, TruncatedSign(k=4))
    from_plain, _ = fold_batch_norms(model)
    from_converted, _ = fold_batch_norms(converted)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(from_plain(x), from_converted(x))


def test_sites_are_those_of_the_conversion():
    model = unsettled(MODELS["vgg"]())
    folded, _ = fold_batch_norms(model)
    sites = [node.meta["site"] for node in folded.graph.nodes if "site" in node.meta]
    relus = with_stochastic_relus(model, TruncatedSign(k=4))
    named = [(name, module.site) for name, module in relus.named_modules() if hasattr(module, "site")]
    assert sites == sorted(named, key=lambda item: item[1])


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (nn.BatchNorm1d(4), r"1 \(BatchNorm1d\)"),
        (nn.BatchNorm1d(4, track_running_stats=False), "1 .*running statistics"),
    ],
)
def test_what_cannot_be_folded_is_refused_by_name(norm, message):
    with pytest.raises(ExportError, match=message):
        fold_batch_norms(nn.Sequential(nn.ReLU(), norm, nn.Linear(4, 2)))
