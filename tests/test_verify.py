"""The four ways agree on everything there is, and a single wrong value in any of them is caught and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from circa_train.data import ImageSet
from circa_train.fault import BitWindow, NoFault, TruncatedSign, UniformFault, truncated_sign, uniform_masks
from circa_train.field import DEFAULT_PRIME, largest_centred
from circa_train.fixed_point import to_fixed
from circa_train.gc.accounting import relu_cost
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.nn.control import site_inputs, stochastic_relus
from circa_train.nn.convert import with_stochastic_relus
from circa_train.nn.sites import relu_sites
from circa_train.verify import (
    WAYS,
    SiteSample,
    checking,
    choose_sites,
    collect_samples,
    sampling,
    select,
    verification_table,
    verify_site,
)

MEAN, STD = (0.5,), (0.25,)


def sample_of(spec: TruncatedSign, x: torch.Tensor, t: torch.Tensor) -> SiteSample:
    return select("site", spec, x, t, truncated_sign(x, t, spec))


def boundary_sample(spec: TruncatedSign) -> SiteSample:
    """Every boundary value under every boundary mask."""
    assert isinstance(spec.k, int)
    limit, step = largest_centred(spec.prime), 1 << spec.k
    values = sorted({s * v for s in (1, -1) for v in (0, 1, step - 1, step, step + 1, limit) if v <= limit})
    masks = sorted(
        {m % spec.prime for m in (0, 1, step - 1, step, spec.prime - step, spec.prime - 1, limit, limit + 1)}
    )
    x, t = torch.cartesian_prod(torch.tensor(values), torch.tensor(masks)).T.contiguous()
    return sample_of(spec, x, t)


def network_of(spec, **options) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten()
    )
    return with_stochastic_relus(model, spec, frac_bits=16, seed=3, **options)


def images_of(count: int, size: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.zeros(count, dtype=torch.int64))


def collect(network: nn.Module, images: ImageSet, **options) -> list[SiteSample]:
    relus = dict(relu_sites(network, tuple(images.images.shape[1:])))
    return collect_samples(network, images, list(relus), mean=MEAN, std=STD, relus=relus, **options)


@pytest.mark.parametrize("mode", ["poszero", "negpass"])
@pytest.mark.parametrize("k", [0, 3, 6])
def test_every_value_under_every_mask_of_a_small_prime(mode: str, k: int) -> None:
    spec = TruncatedSign(k, mode, prime=67)
    x, t = torch.cartesian_prod(torch.arange(-33, 34), torch.arange(67)).T.contiguous()
    report = verify_site(sample_of(spec, x, t))
    assert report.agrees
    assert report.mismatches == dict.fromkeys(WAYS, 0)
    assert report.values == 67 * 67
    assert report.faults.faults > 0
    assert report.sent_bytes > 0


@pytest.mark.parametrize("mode", ["poszero", "negpass"])
@pytest.mark.parametrize("k", [0, 1, 12, 18, 30])
def test_boundaries_of_the_default_prime(mode: str, k: int) -> None:
    assert verify_site(boundary_sample(TruncatedSign(k, mode))).agrees


def test_k_by_channel_goes_to_the_right_circuit() -> None:
    spec = TruncatedSign((2, 20, 11))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-(2**12), 2**12, (5, 3, 7, 7), generator=generator)
    t = uniform_masks(x.shape, seed=0, site=0, draw=0)
    sample = select("site", spec, x, t, truncated_sign(x, t, spec), torch.arange(x.numel() - 1, -1, -1))
    report = verify_site(sample)
    assert report.agrees
    assert report.ks == (2, 11, 20)
    assert report.values == x.numel()
    swapped = replace(sample, k=np.where(sample.k == 20, 2, sample.k))
    assert verify_site(swapped).mismatches["simulator"] > 0


def test_a_gate_that_the_module_got_wrong_is_named() -> None:
    sample = boundary_sample(TruncatedSign(12))
    at = 17
    applied = sample.applied.copy()
    applied[at] ^= 1
    report = verify_site(replace(sample, applied=applied, elements=sample.elements + 1000))
    assert not report.agrees
    assert report.mismatches == {"simulator": 1, "circuit": 0, "garbled": 0, "shares": 0}
    (mismatch,) = report.named
    assert (mismatch.site, mismatch.element, mismatch.way) == ("site", 1017, "simulator")
    assert (mismatch.x, mismatch.t, mismatch.k) == (sample.x[at], sample.t[at], 12)
    assert (mismatch.want, mismatch.got) == (sample.applied[at], applied[at])
    for part in ("site site", "element 1017", f"x = {sample.x[at]}", f"t = {sample.t[at]}", "simulator got"):
        assert part in str(mismatch)


def test_a_circuit_of_the_other_mode_disagrees_on_exactly_the_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TruncatedSign(4, prime=67)
    x, t = torch.cartesian_prod(torch.arange(-33, 34), torch.arange(67)).T.contiguous()
    ties = truncated_sign(x, t, spec) != truncated_sign(x, t, TruncatedSign(4, "negpass", prime=67))
    monkeypatch.setattr(
        checking, "circuit_of", lambda spec: ReluCircuit("truncated", spec.prime, spec.k, "negpass")
    )
    report = verify_site(sample_of(spec, x, t))
    wrong = int(ties.sum())
    # A gate that is wrong at x = 0 leaves y = 0.
    assert report.mismatches == {
        "simulator": 0,
        "circuit": wrong,
        "garbled": wrong,
        "shares": int((ties & (x != 0)).sum()),
    }
    assert {mismatch.way for mismatch in report.named} == {"circuit", "garbled", "shares"}
    assert all(sum(m.way == way for m in report.named) == 5 for way in ("circuit", "garbled", "shares"))


def test_one_wrong_garbled_bit_and_one_wrong_share_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest_bits, honest_shares = checking.run_locally, checking.TRANSPORTS["memory"]

    def wrong_bits(*args, **options):
        run = honest_bits(*args, **options)
        run.values[3] ^= 1
        return run

    def wrong_share(*args, **options):
        outcome = honest_shares(*args, **options)
        outcome.client_share[5] = (outcome.client_share[5] + 1) % DEFAULT_PRIME
        return outcome

    monkeypatch.setattr(checking, "run_locally", wrong_bits)
    monkeypatch.setitem(checking.TRANSPORTS, "memory", wrong_share)
    report = verify_site(boundary_sample(TruncatedSign(12)))
    assert report.mismatches == {"simulator": 0, "circuit": 0, "garbled": 1, "shares": 1}
    assert [(m.way, m.element) for m in report.named] == [("garbled", 3), ("shares", 5)]


def test_a_site_larger_than_a_chunk_and_a_repeated_run() -> None:
    x = torch.randint(-(2**20), 2**20, (3000,), generator=torch.Generator().manual_seed(2))
    sample = sample_of(TruncatedSign(14), x, uniform_masks(x.shape, seed=1, site=2, draw=3))
    first, second = (verify_site(sample, seed=7, chunk=512) for _ in range(2))
    assert first.agrees
    assert (first.faults, first.sent_bytes) == (second.faults, second.sent_bytes)
    per_relu = relu_cost(ReluCircuit("truncated", k=14)).sent_bytes
    assert 1 < first.sent_bytes / 3000 / per_relu < 1.01


def test_what_is_not_to_be_verified_is_refused() -> None:
    sample = boundary_sample(TruncatedSign(12))
    with pytest.raises(ValueError, match="transport = 'pigeon' is not one of memory, socket"):
        verify_site(sample, transport="pigeon")
    with pytest.raises(ValueError, match="no activation"):
        verify_site(select("s", sample.spec, *(torch.zeros(0, dtype=torch.int64) for _ in range(3))))
    with pytest.raises(ValueError, match="is outside"):
        verify_site(replace(sample, t=sample.t + DEFAULT_PRIME))


@pytest.mark.slow
def test_two_processes_reach_the_same() -> None:
    sample = boundary_sample(TruncatedSign(12))
    socket, memory = (verify_site(sample, transport=transport, seed=1) for transport in ("socket", "memory"))
    assert socket.agrees
    assert socket.sent_bytes == memory.sent_bytes


def test_samples_are_what_the_network_did() -> None:
    spec = TruncatedSign(12)
    network, images = network_of(spec), images_of(9)
    # What entered the sites is recorded in the very passes that are sampled: another pass over the same
    # images may differ in the last bit, for a processor may round its convolutions by the size of the batch.
    seen: dict[str, list[torch.Tensor]] = {}
    relus = dict(relu_sites(network, (1, 6, 6)))
    with site_inputs(network, lambda name, z: seen.setdefault(name, []).append(z)):
        samples = collect_samples(
            network, images, list(relus), mean=MEAN, std=STD, relus=relus, samples=200, draw=11, batch_size=3
        )
    normalised = (images.images[:8] / 255 - MEAN[0]) / STD[0]  # 8 images: the least that are run
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(seen["1"]), network.get_submodule("0")(normalised))
    for sample, (name, relu) in zip(samples, stochastic_relus(network).items(), strict=True):
        assert [len(z) for z in seen[name]] == [3, 3, 2]
        z = torch.cat(seen[name])
        assert sample.site == name
        assert len(set(sample.elements.tolist())) == len(sample) == 200
        x, _ = to_fixed(z, 16, spec.prime)
        t = uniform_masks(z.shape, seed=3, site=relu.site, draw=11)
        np.testing.assert_array_equal(sample.x, x.flatten()[sample.elements])
        np.testing.assert_array_equal(sample.t, t.flatten()[sample.elements])
        np.testing.assert_array_equal(sample.applied, truncated_sign(x, t, spec).flatten()[sample.elements])
        assert verify_site(sample).agrees


def test_samples_do_not_depend_on_the_batch_size() -> None:
    # Weights that are 0 or a power of two: no processor rounds such a convolution.
    first, second = nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
    with torch.no_grad():
        first.weight.fill_(1)
        second.weight.copy_(2 * torch.eye(4)[:, :, None, None])
    network, images = with_stochastic_relus(model, TruncatedSign((4, 8, 12, 16))), images_of(10)
    whole, parts = (collect(network, images, samples=500, batch_size=size) for size in (16, 3))
    for one, other in zip(whole, parts, strict=True):
        for name in ("elements", "x", "t", "k", "applied"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_as_many_images_as_it_takes_and_no_more_than_there_are() -> None:
    network = network_of(TruncatedSign(12))  # 144 ReLUs per image and site
    assert [len(s) for s in collect(network, images_of(40), samples=144 * 30)] == [144 * 30] * 2
    assert [len(s) for s in collect(network, images_of(2), samples=4096)] == [288] * 2
    with pytest.raises(ValueError, match="nothing to verify"):
        collect(network, images_of(2), samples=0)


def test_masks_of_another_draw_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = TruncatedSign.masks_at

    def next_draw(self, elements, *, draw, **address):
        return drawn(self, elements, draw=draw + 1, **address)

    monkeypatch.setattr(TruncatedSign, "masks_at", next_draw)
    for sample in collect(network_of(TruncatedSign(20)), images_of(8), samples=1000):
        report = verify_site(sample)
        assert report.mismatches["simulator"] > 0
        assert not any(report.mismatches[way] for way in WAYS if way != "simulator")


def test_an_output_that_is_neither_the_input_nor_zero_is_a_mismatch() -> None:
    z = torch.tensor([1.5, -2.0, 0.0, 0.0, 3.0, 3.0])
    y = torch.tensor([1.5, 0.0, -0.0, 0.0, 0.0, 3.5])
    assert sampling.let_through(z, y).tolist() == [1, 0, 1, 0, 0, -1]
    sample = boundary_sample(TruncatedSign(12))
    applied = sample.applied.copy()
    applied[0] = -1
    assert verify_site(replace(sample, applied=applied)).mismatches["simulator"] == 1


SPECS = {
    "a": TruncatedSign(12),
    "b": NoFault(),
    "c": TruncatedSign(3, "negpass"),
    "d": UniformFault(),
    "e": BitWindow(4, 20),
    "f": TruncatedSign(0),
}


def test_sites_are_chosen_by_name_by_count_or_all() -> None:
    chosen, left_out = choose_sites(SPECS, "all")
    assert chosen == ["a", "c", "f"]
    assert list(left_out) == ["b", "d", "e"]
    assert "exact ReLU" in left_out["b"]
    assert "statistical model" in left_out["d"]
    assert "modulo 2^64" in left_out["e"]
    assert choose_sites(SPECS, "c") == (["c"], {})
    assert choose_sites(SPECS, ["f", "d"])[0] == ["f"]
    assert choose_sites(SPECS, 1) == (["c"], {})
    assert choose_sites(SPECS, 2) == (["a", "f"], {})
    assert choose_sites(SPECS, 99) == (["a", "c", "f"], {})
    many = {str(i): TruncatedSign(1) for i in range(17)}
    assert choose_sites(many, 5)[0] == ["0", "4", "8", "12", "16"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("g", "no ReLU site is called g; the sites are a, b"),
        (["a", "x", "y"], "called x, y"),
        ([], "none given"),
        (0, "at least 1"),
        (True, "at least 1"),
        ("d", "nothing can be verified: d: flips at a uniform rate"),
    ],
)
def test_sites_that_are_not_there_are_refused(wanted, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_sites(SPECS, wanted)


def test_nothing_to_verify_is_an_error_that_groups_its_reasons() -> None:
    with pytest.raises(ValueError, match=r"verified: u, v: flips .*; w: an exact ReLU.*fault=poszero"):
        choose_sites({"u": UniformFault(), "v": UniformFault(), "w": NoFault()}, 2)


def test_the_table_has_a_line_per_site() -> None:
    from circa_train.cost import compare_circuits

    spec = TruncatedSign((2, 20, 11))
    x = torch.full((1, 3, 2, 2), 5)
    t = uniform_masks(x.shape, seed=0, site=0, draw=0)
    report = verify_site(select("layer1.relu", spec, x, t, truncated_sign(x, t, spec)))
    head, line = verification_table([report], {"layer1.relu": compare_circuits(spec)}).splitlines()
    assert head.split()[0] == "site"
    assert line.split()[:3] == ["layer1.relu", "2-20", "12"]
    assert "9396/4948/2004/" in line
