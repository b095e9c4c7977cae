"""What a bare trace drops or freezes is kept, or refused with the remedy."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from zoo import Gate, Rounded, StraightThrough, conv

from circa_train import NoFault, TruncatedSign, fit_frac_bits, relu_sites, with_stochastic_relus
from circa_train.nn.control import set_draw, stochastic_relus
from circa_train.nn.convert import ConversionError

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = conv(), nn.ReLU()

    def forward(self, x: Tensor, *, scale: float = 1.0, other: dict[str, Tensor] | None = None) -> Any:
        y = self.act(self.conv(x)) * scale
        return (y, {"sum": y + other["x"]}) if other else y


class Stages(nn.Module):
    """Blocks with every kind of argument and result, one called twice, one inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.deep = (
            Stage(),
            Stage(),
            nn.Sequential(nn.Sequential(Stage(), Gate()), nn.Identity()),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x, scale=0.5)
        y, more = self.b(self.a(x), other={"x": x})
        return self.deep(y - more["sum"])


def watch(model: nn.Module, seen: list[Any]) -> None:
    """Hooks of every kind on every block."""
    for name, module in model.named_modules():

        def note(kind: str, name: str = name) -> Callable[..., None]:
            def hook(module: nn.Module, *values: Any) -> None:
                tensors = torch.utils._pytree.tree_leaves(values)
                seen.append((kind, name, [t.detach().clone() for t in tensors if isinstance(t, Tensor)]))

            return hook

        module.register_forward_pre_hook(note("pre"))
        module.register_forward_pre_hook(note("pre with kwargs"), with_kwargs=True)
        module.register_forward_hook(note("post"))
        module.register_forward_hook(note("post with kwargs"), with_kwargs=True)
        if name not in ("b", "a"):  # torch itself gives no gradient through a dict
            module.register_full_backward_hook(note("back"))
            module.register_full_backward_pre_hook(note("before back"))


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        x[:2] == y[:2] and len(x[2]) == len(y[2]) and all(map(torch.equal, x[2], y[2]))
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("when", ["before", "after", "before, in a copy"])
def test_hooks_of_every_kind_run_as_in_the_plain_network(when: str) -> None:
    torch.manual_seed(0)
    model, seen, want = Stages(), [], []
    plain = copy.deepcopy(model)
    watch(plain, want)
    images = IMAGES.clone().requires_grad_()
    out = plain(images)
    out.sum().backward()
    if when.startswith("before"):
        watch(model, seen)
    network = with_stochastic_relus(model, NoFault())
    assert not seen, "a conversion runs no hook"
    if when == "after":
        watch(network, seen)
    if when.endswith("copy"):
        network.register_forward_pre_hook(lambda module, args: None)
        network = copy.deepcopy(network)
    # the second call of a shared ReLU is a site of its own, which hooks registered afterwards name so
    got = network(images)
    assert torch.equal(got, out)
    got.sum().backward()
    names = {"a.act#2": "a.act", "deep.0.1.relu": "functional"}
    found = [(kind, names.get(name, name), values) for kind, name, values in seen]
    if when == "after":  # a functional ReLU's site is no module of the plain network
        found = [entry for entry in found if entry[1] != "functional"]
    assert [entry[:2] for entry in found] == [entry[:2] for entry in want]
    assert same(found, want)


def test_hooks_that_change_values_and_their_removal() -> None:
    model = nn.Sequential(Stage(), Stage())
    handle = model[0].register_forward_hook(lambda module, args, y: y * 3)
    network = with_stochastic_relus(model, NoFault())
    assert torch.equal(network(IMAGES), model(IMAGES))
    tripled = model(IMAGES)
    handle.remove()
    assert not torch.equal(model(IMAGES), tripled)
    assert torch.equal(network(IMAGES), tripled), "the converted network keeps what it was made with"
    block = network.get_submodule("1")
    later = block.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    assert torch.equal(network(IMAGES), model[1](torch.zeros_like(IMAGES)))
    assert not model[1]._forward_pre_hooks
    later.remove()
    assert torch.equal(network(IMAGES), tripled)
    with pytest.raises(
        RuntimeError, match=r"Stage is part of a converted network, .*Convert the plain block"
    ):
        block(IMAGES)


def test_a_hook_between_a_value_and_its_relu_keeps_it_from_being_overwritten() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.back = nn.Sequential(nn.Sequential(conv())), nn.Sequential(nn.Sequential(Gate()))

        def forward(self, x: Tensor) -> Tensor:
            return self.back(self.front(x))

    network = with_stochastic_relus(Twice().eval(), TruncatedSign(12))
    (site,) = stochastic_relus(network).values()
    assert site._overwrites
    for path in ("front", "front.0", "back", "back.0", "back.0.0"):
        kept: list[Tensor] = []

        def hook(module: nn.Module, args: Any, y: Tensor, kept: Any = kept, path: str = path) -> None:
            kept.append(y if "front" in path else args[0])

        handle = network.get_submodule(path).register_forward_hook(hook)
        with torch.no_grad():
            network(IMAGES)
        assert bool((kept[0] < 0).any()), path
        handle.remove()


@pytest.mark.parametrize("early", [False, True], ids=["apply", "taken early"])
@pytest.mark.parametrize("copied", [lambda n: n, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_straight_through_gradients_are_kept(early: bool, copied: Callable[[nn.Module], nn.Module]) -> None:
    model = Early() if early else StraightThrough()
    network = copied(with_stochastic_relus(model, NoFault(), example=IMAGES))
    gradients = []
    for net in (model, network):
        weight = dict(net.named_parameters())["body.weight"]
        gradients.append(torch.autograd.grad(net(IMAGES).sum(), weight)[0])
    assert torch.equal(*gradients)
    assert float(gradients[0].abs().sum()) > 0


rounded = Rounded.apply


class Early(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(rounded(self.body(x)))


class Within(nn.Module):
    def __init__(self, context: Callable[[], Any]) -> None:
        super().__init__()
        self.body, self.context = conv(), context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            y = self.body(x)
        return torch.relu(y)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (torch.no_grad, "body runs inside a block of torch.no_grad"),
        (torch.inference_mode, "body runs inside a block of torch.(no_grad|inference_mode)"),
        (lambda: torch.set_grad_enabled(False), "torch.no_grad"),
        (
            lambda: torch.autocast("cpu", torch.bfloat16),
            r"body runs inside a block of torch.autocast\('cpu'\)",
        ),
        (lambda: torch.autograd.graph.save_on_cpu(), "saved_tensors_hooks"),
    ],
)
def test_blocks_that_a_trace_drops_are_refused(context: Callable[[], Any], message: str) -> None:
    for convert in (lambda m: with_stochastic_relus(m, NoFault()), lambda m: relu_sites(m, (3, 8, 8))):
        with pytest.raises(
            ConversionError, match=message + ".*(around the call of the whole network|switch it off)"
        ):
            convert(Within(context))
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("outer", [nullcontext, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_blocks_around_the_conversion_are_no_hindrance(outer: Callable[[], Any]) -> None:
    with outer():
        network = with_stochastic_relus(nn.Sequential(conv(), Gate()), NoFault())
        relu_sites(network, (3, 8, 8))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_inside_the_forward_is_refused(reentrant: bool) -> None:
    class Saves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(conv(), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=reentrant)

    with pytest.raises(ConversionError, match="heckpoint"):
        with_stochastic_relus(Saves(), NoFault())


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = conv()

    def forward(
        self, x: Tensor, depth: int = 2, name: str = "a", extra: Tensor | None = None, *, last: bool = True
    ):  # type: ignore[no-untyped-def]
        for _ in range(depth):
            x = F.relu(self.body(x))
        return x.mean((2, 3)) if last else (x if extra is None else x + extra)


def test_options_keep_their_names_and_their_defaults() -> None:
    model = Options()
    network = with_stochastic_relus(model, NoFault(), example=IMAGES)
    want = model(IMAGES)
    for other in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(IMAGES), want)
        assert torch.equal(other(IMAGES, 2, name="a", extra=None, last=True), want)
        for options in ({"depth": 3}, {"name": "b"}, {"extra": IMAGES}, {"last": False}, {"last": 1}):
            (name,) = options
            with pytest.raises(
                ValueError, match=f"Options was converted with {name}=.*a module whose forward calls"
            ):
                other(IMAGES, **options)
        with pytest.raises(TypeError, match="unexpected keyword"):
            other(IMAGES, nothing=1)


class WithOption(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = Options()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, depth=3, last=False)


def test_the_remedy_for_options_works() -> None:
    model = WithOption()
    network = with_stochastic_relus(model, NoFault(), example=IMAGES)
    assert torch.equal(network(IMAGES), model.network(IMAGES, depth=3, last=False))
    assert list(stochastic_relus(network)) == ["network.relu", "network.relu#2", "network.relu#3"]


class Function(nn.Module):
    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function, self.body = function, conv()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, F.relu(self.body(x)))


def test_layers_made_in_the_forward_are_run_through() -> None:
    def made(s: nn.Module, x: Tensor) -> Tensor:
        x = nn.ReLU()(x - 0.1)
        x = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.ReLU(inplace=True))(x - 0.1)
        return s.layers["act"](s.listed[0](x - 0.1))

    model = Function(made, listed=[nn.ReLU()], layers={"act": nn.Hardtanh(-1e9, 1e9)})
    network = with_stochastic_relus(model, NoFault(), example=IMAGES, other_activations="keep")
    assert list(stochastic_relus(network)) == ["relu", "relu#2", "relu#3", "relu#4"]


def normed() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return torch.nn.utils.weight_norm(Hand())


class Hand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, self.weight))


def replaced() -> nn.Module:
    model = nn.Sequential(conv(), nn.ReLU())
    model.forward = lambda x: nn.Sequential.forward(model, x) * 2  # type: ignore[method-assign]
    return model


def rebinds(s: nn.Module, x: Tensor) -> Tensor:
    s.mean = 0.9 * s.mean + 0.1 * x.mean()
    return x - s.mean


def state() -> nn.Module:
    model = Function(rebinds)
    model.register_buffer("mean", torch.zeros(()))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Function(lambda s, x: nn.Conv2d(3, 3, 1)(x)),
            "Conv2d at the network holds parameters .*__init__",
        ),
        (
            lambda: Function(lambda s, x: s.listed[0](x), listed=[conv()]),
            "Conv2d at the network .* nn.ModuleList",
        ),
        (
            lambda: Function(lambda s, x: s.by["k"](x), by={"k": nn.BatchNorm2d(3)}),
            "BatchNorm2d .* nn.ModuleDict",
        ),
        (normed, "weight at .* computed elsewhere .*parametrizations"),
        (replaced, "forward of this Sequential was replaced on the object"),
        (state, "cannot trace the forward of Function.*mean|changes the buffer mean"),
    ],
)
def test_what_a_trace_would_freeze_is_refused(make: Callable[[], nn.Module], message: str) -> None:
    model = make()
    for convert in (lambda: with_stochastic_relus(model, NoFault()), lambda: relu_sites(model, (3, 8, 8))):
        with pytest.raises(ConversionError, match=message):
            convert()
    if hasattr(model, "mean"):
        assert float(model.mean) == 0.0


def test_buffers_and_attributes_are_read_anew_each_time() -> None:
    model = Function(lambda s, x: x * s.gain.exp() + s.shift)
    model.register_buffer("gain", torch.zeros(1))
    model.shift = torch.ones(1)
    network = with_stochastic_relus(model, NoFault(), example=IMAGES)
    model.gain.fill_(1.0)
    model.shift.fill_(2.0)
    assert torch.equal(network(IMAGES), model(IMAGES))
    network.load_state_dict({**network.state_dict(), "gain": torch.full((1,), 2.0)})
    assert torch.equal(network(IMAGES), model(IMAGES))


def test_the_trial_notices_what_no_rule_knows() -> None:
    class Sneaky(nn.Module):
        """Computes in Python with numbers that a trace takes for constants."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.running = conv(), 1.0

        def forward(self, x: Tensor) -> Tensor:
            if isinstance(x, torch.fx.Proxy):
                return torch.relu(self.body(x))
            return torch.relu(self.body(x)) * 2

    class Detaches(Sneaky):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            return torch.relu(y if isinstance(x, torch.fx.Proxy) else y.detach() + 0 * y)

    for model, what in ((Sneaky(), "output 0 differs by"), (Detaches(), "gradient of .* differs by")):
        with_stochastic_relus(model, NoFault())
        for convert in (
            lambda m: with_stochastic_relus(m, NoFault(), example=IMAGES),
            lambda m: relu_sites(m, (3, 8, 8)),
            lambda m: fit_frac_bits(m, [IMAGES]),
        ):
            with pytest.raises(ConversionError, match=f"does not compute what it did .*{what}"):
                convert(model)


def test_the_trial_uses_up_no_draw_and_no_random_number() -> None:
    model = nn.Sequential(conv(), nn.Dropout(0.5), nn.ReLU()).train()
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    network = with_stochastic_relus(model, TruncatedSign(12), example=(IMAGES,))
    assert torch.equal(torch.rand(2), want)
    assert [relu.address.tolist() for relu in stochastic_relus(network).values()] == [[0, 0]]
    assert network.training
    assert all(p.grad is None for p in model.parameters())
    set_draw(network, 3)
