"""The same network or none: hooks, patches and computed weights are kept or refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from circa_train import NoFault, TruncatedSign, fit_frac_bits, relu_sites
from circa_train.export import ExportError, to_integers
from circa_train.export import faithful as faithful_module


def images() -> torch.Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).eval()


def exported_error(model: nn.Module) -> float:
    """Of the largest logit, measured here."""
    conversion = to_integers(model, NoFault(), [images()])
    with torch.no_grad():
        wanted = model(images()).double()
    error = float((conversion.network(images()) - wanted).abs().max() / wanted.abs().max())
    assert conversion.network.plan.layers[-1].shape == tuple(wanted.shape[1:])
    return error


class Tail(nn.Module):
    """A convolution, a ReLU, and anything."""

    def __init__(self, tail) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.tail = nn.Conv2d(3, 4, 3), tail

    def forward(self, x):
        return self.tail(torch.relu(self.conv(x)))


KEPT = {
    "mean": lambda y: y.mean([2, 3]),
    "mean, negative axes": lambda y: torch.mean(y, dim=(-1, -2)),
    "mean, kept": lambda y: y.mean((2, 3), keepdim=True),
    "channel shuffle": lambda y: y.view(-1, 2, 2, 6, 6).transpose(1, 2).contiguous().view(-1, 4, 6, 6),
    "permute": lambda y: y.permute(0, 2, 3, 1),
    "permute, a list": lambda y: torch.permute(y, [0, 3, 1, 2]),
    "swapaxes": lambda y: torch.swapaxes(y, 1, 3),
    "transpose, by name": lambda y: torch.transpose(y, dim0=2, dim1=-1),
    "no transpose at all": lambda y: y.transpose(2, 2),
    "clone": lambda y: y.clone(),
    "clone, then in place": lambda y: y.clone().add_(y),
    "detach": lambda y: y.detach(),
}


@pytest.mark.parametrize("name", list(KEPT))
def test_forms_of_call_give_the_shapes_and_values_that_they_give(name):
    model = Tail(KEPT[name]).eval()
    assert exported_error(model) < 0.02


def test_a_linear_layer_follows_a_mean():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x.clone())).mean([2, 3]))

    torch.manual_seed(0)
    assert exported_error(Net().eval()) < 0.02


class NormAct(nn.BatchNorm2d):
    """As several collections write it: the functional form in a subclass, and the activation with it."""

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        return torch.relu(F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.1, self.eps))


def test_functional_batch_norm_is_folded():
    torch.manual_seed(0)
    norm = NormAct(4, eps=1e-2)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten()).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    assert exported_error(model) < 0.02
    (fold,) = to_integers(model, NoFault(), [images()]).folds
    assert (fold.batch_norm, fold.into) == ("1.batch_norm", "0")


CHANGES = {
    "pruned": lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("change", list(CHANGES))
def test_computed_weights_are_written_down_and_the_network_is_left_alone(change, seen):
    model = network()
    CHANGES[change](model[0][0])
    if seen:
        model(images())
    hooks, state = len(model[0][0]._forward_pre_hooks), copy.deepcopy(model.state_dict())
    assert exported_error(model) < 0.02
    assert len(model[0][0]._forward_pre_hooks) == hooks
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in state)
    assert parametrize.is_parametrized(model[0][0]) == ("parametrized" in change)
    assert exported_error(model) < 0.02  # and again
    assert model[0][0].weight.shape == (4, 3, 3, 3)


REFUSED = {
    "on a convolution": lambda m: m[0][0].register_forward_hook(lambda *a: 2 * a[-1]),
    "on a block": lambda m: m[0].register_forward_hook(lambda *a: 2 * a[-1]),
    "on the network": lambda m: m.register_forward_hook(lambda *a: 2 * a[-1]),
    "on a ReLU": lambda m: m[1].register_forward_hook(lambda *a: a[-1] + 1),
    "before a layer": lambda m: m[3].register_forward_pre_hook(lambda module, a: (2 * a[0],)),
}


@pytest.mark.parametrize("where", list(REFUSED))
def test_a_hook_that_changes_something_is_refused(where):
    model = network()
    REFUSED[where](model)
    with pytest.raises(ExportError, match=r"is another in the export: .*[Hh]ook"):
        to_integers(model, NoFault(), [images()])


def test_a_hook_that_only_looks_is_none_of_our_business():
    model, seen = network(), []
    for module in (model, model[0], model[0][0], model[1]):
        module.register_forward_hook(lambda *a: seen.append(a[-1].shape))
    assert exported_error(model) < 0.02


@pytest.mark.parametrize("where", ["0.0", "0", ""])
def test_a_forward_set_on_the_object_is_refused_by_name(where):
    model = network()
    module = model.get_submodule(where)
    old = module.forward
    module.forward = lambda z: 2 * old(z)
    name = where or r"\(the network\)"
    with pytest.raises(ExportError, match=rf"layer {name} .*set on the object"):
        to_integers(model, NoFault(), [images()])


def test_integers_too_coarse_are_refused_and_the_error_is_recorded():
    model = network()
    fine = to_integers(model, NoFault(), [images()])
    coarse = to_integers(model, NoFault(), [images()], value_bits=6, largest_error=1.0)
    assert 0 < fine.error < coarse.error
    with pytest.raises(ExportError, match=r"differs from the given one by up to .*largest_error.*value_bits"):
        to_integers(model, NoFault(), [images()], value_bits=6, largest_error=coarse.error / 2)


def test_a_layer_that_is_read_wrongly_is_named(monkeypatch):
    """Whatever a converter makes of a step, it is compared with what the step did."""
    model = network()
    real = faithful_module.RealNetwork

    class Wrong(real):
        def _compute(self, layer, sources):
            y = super()._compute(layer, sources)
            return self.spoil(y) if layer.name == "3" else y

    monkeypatch.setattr(faithful_module, "RealNetwork", Wrong)
    for spoil, message in ((lambda _, y: 2 * y, "is another"), (lambda _, y: y[:, :-1], "has the shape")):
        monkeypatch.setattr(Wrong, "spoil", spoil, raising=False)
        with pytest.raises(ExportError, match=f"layer 3 {message}"):
            to_integers(model, NoFault(), [images()])


def test_the_order_of_calls_in_the_readme_still_works():
    model = network()
    fitted = fit_frac_bits(model, [images()], TruncatedSign(4).prime)
    assert relu_sites(model, (3, 8, 8)) == [("1", 144)]
    assert to_integers(model, TruncatedSign(4), [images()]).network.plan.format.accumulator_frac_bits > 0
    assert fitted.frac_bits > 0
