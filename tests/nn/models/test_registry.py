"""build_model by name, seeds, refused options; translation of foreign parameter names."""

from __future__ import annotations

import pytest
import torch

from circa_train.nn.models.registry import build_model, model_names, translate_keys


def test_every_name_builds():
    for name in model_names()[:-1]:
        model = build_model(name, num_classes=7, image_size=32, in_channels=1, width=0.125)
        assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build_model("resnet8", num_classes=10, image_size=32, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    again = build_model("resnet8", num_classes=10, image_size=32, seed=1).state_dict()
    other = build_model("resnet8", num_classes=10, image_size=32, seed=2).state_dict()
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])
    unseeded = build_model("resnet8", num_classes=10, image_size=32).state_dict()
    torch.manual_seed(5)
    repeated = build_model("resnet8", num_classes=10, image_size=32).state_dict()
    assert torch.equal(unseeded["conv1.weight"], repeated["conv1.weight"])


def test_default_shortcuts_are_the_papers():
    a = build_model("resnet32", num_classes=10, image_size=32).state_dict()
    b = build_model("resnet18", num_classes=10, image_size=32, width=0.125).state_dict()
    assert not any("shortcut" in key for key in a)
    assert "layer2.0.shortcut.0.weight" in b


def test_torchvision_classifiers_honour_the_number_of_classes():
    pytest.importorskip("torchvision")
    model = build_model("torchvision:mobilenet_v3_small", num_classes=7, image_size=64)
    assert model.training
    assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet19", {}, "resnet8, resnet20.*torchvision:<name>"),
        ("vgg16", {"shortcut": "A"}, "no option 'shortcut'"),
        ("resnet20", {"dropout": 0.1}, "no option 'dropout'"),
        ("resnet20", {"num_classes": 0}, "num_classes must be a positive integer, not 0"),
        ("resnet20", {"image_size": 32.0}, "image_size must be a positive integer"),
        (8, {}, "the name of a model is text, not 8"),
        ("torchvision:resnet19", {}, "no classifier 'resnet19'.*resnet18"),
        ("torchvision:resnet18", {"width": 0.5}, "no option 'width'"),
        ("torchvision:resnet18", {"in_channels": 1}, "takes 3 channels"),
        ("torchvision:alexnet", {"image_size": 16}, "images of side 16"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, said):
    if str(name).startswith("torchvision"):
        pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=f"(?s){said}"):
        build_model(name, **{"num_classes": 10, "image_size": 32} | options)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_go(prefix):
    model = build_model("resnet8", num_classes=10, image_size=32)
    state = {prefix + key: value for key, value in model.state_dict().items()}
    assert list(translate_keys(state, model)) == list(model.state_dict())


def test_names_are_translated_to_torchvision_and_back():
    pytest.importorskip("torchvision")
    ours = build_model("resnet18", num_classes=10, image_size=32)
    theirs = build_model("torchvision:resnet18", num_classes=10, image_size=32)
    there = translate_keys(ours.state_dict(), theirs)
    assert set(there) == set(theirs.state_dict())
    assert list(translate_keys(there, ours)) == list(ours.state_dict())
    mismatched = [key for key, value in theirs.state_dict().items() if there[key].shape != value.shape]
    assert mismatched == ["conv1.weight"]  # the 7x7 stem of ImageNet, which the loader will name


def test_counters_that_old_files_lack_are_added_and_nothing_else_is():
    model = build_model("resnet8", num_classes=10, image_size=32)
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    del state["bn1.running_mean"], state["linear.bias"]
    translated = translate_keys(state | {"strange.weight": torch.zeros(1)}, model)
    missing = set(model.state_dict()) - set(translated)
    assert missing == {"bn1.running_mean", "bn1.num_batches_tracked", "linear.bias"}
    assert set(translated) - set(model.state_dict()) == {"strange.weight"}


def test_two_entries_for_one_name_are_refused():
    model = build_model("resnet8", num_classes=10, image_size=32)
    state = {"fc.bias": torch.zeros(10), "linear.bias": torch.ones(10)}
    with pytest.raises(ValueError, match=r"two entries for 'linear\.bias'"):
        translate_keys(state, model)
