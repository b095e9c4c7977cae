"""Golden digests: bits that no change of the code may change, unless it says so and versions them.

Recorded are results of integer and element-wise arithmetic only, which every processor computes alike; never
the outcome of a convolution in floating point, which rounds as the processor's library sums. ``python
tests/test_golden.py`` prints the table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from circa_train import BitWindow, NoFault, StochasticReLU, TruncatedSign, UniformFault, uniform_masks
from circa_train.export import save_export, to_integers
from circa_train.fault import draw_sign, fault_probability, random_words, ring_masks
from circa_train.field import DEFAULT_PRIME, largest_centred
from circa_train.gc.circuits.relu import ReluCircuit
from circa_train.gc.protocol.beaver import TrustedDealer
from circa_train.gc.protocol.parties import client, server
from circa_train.runs.folder import config_hash, fingerprint

GOLDEN = Path(__file__).with_name("golden.json")

SPECS = {
    "poszero": TruncatedSign(12),
    "negpass": TruncatedSign(17, "negpass"),
    "small prime": TruncatedSign(3, prime=251),
    "by channel": TruncatedSign((0, 12, 20)),
    "uniform": UniformFault(0.01),
    "uniform zeroed": UniformFault(0.25, "zeroed"),
    "window": BitWindow(8, 20),
    "exact": NoFault(),
}


def digest(*parts: object) -> str:
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().contiguous()
            sha.update(f"{part.dtype} {tuple(part.shape)}".encode())
            part = part.view(torch.uint8).numpy().tobytes() if part.numel() else b""
        sha.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:20]


def values_of(spec: object) -> torch.Tensor:
    """Centred integers (4, 3, 8, 8) of every magnitude, both signs, and every boundary of the field; no
    generator is asked.
    """
    limit = largest_centred(getattr(spec, "prime", DEFAULT_PRIME))
    steps = torch.arange(4 * 3 * 8 * 8, dtype=torch.int64)
    x = (steps * 2654435761 % (2 * limit + 1) - limit) >> (steps % 30)
    x[:6] = torch.tensor([0, 1, -1, limit, -limit, limit - 1])
    return x.reshape(4, 3, 8, 8)


def masks() -> str:
    address = {"seed": 2**63 + 5, "site": 7, "draw": 2**40 + 3, "first_element": 1000}
    drawn = [uniform_masks((5, 300), prime=prime, **address) for prime in (DEFAULT_PRIME, 251, 2147483647, 3)]
    return digest(*drawn, random_words((700,), **address), ring_masks((700,), **address))


def gates(name: str) -> str:
    spec = SPECS[name]
    x = values_of(spec)
    gate, _ = draw_sign(x, spec, seed=3, site=2, draw=9)
    one_channel = TruncatedSign(12) if name == "by channel" else spec
    return digest(gate, fault_probability(x, one_channel), spec.to_dict())


def layer(name: str) -> str:
    """The layer on numbers that float32 and bfloat16 hold exactly, and its gradient."""
    spec = SPECS[name]
    results = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        z = (values_of(spec).clamp(-2**24, 2**24).double() / 2**20).clamp(-100, 100).to(dtype)
        z = (z * (2.0**-18 if getattr(spec, "prime", 0) == 251 else 1.0)).requires_grad_()
        relu = StochasticReLU(spec, frac_bits=20, seed=11, site=4)
        y = relu(z)
        y.backward(torch.ones_like(y))
        results += [y, z.grad]
    return digest(*results)


def integer_network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, 5),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            steps = torch.arange(parameter.numel(), dtype=torch.int64)
            parameter.copy_(((steps * 40503 % 4099 - 2049).double() / 2**13).reshape(parameter.shape))
    return model.eval()


def export(folder: Path) -> str:
    """Weights, masks, logits of every rescaling and layer sums of an exported network."""
    images = (torch.arange(2 * 3 * 8 * 8) * 97 % 256).to(torch.uint8).reshape(2, 3, 8, 8)
    calibration = [images.double().float() / 256]
    conversion = to_integers(
        integer_network(), TruncatedSign(9), calibration, frac_bits=16, weight_frac_bits=8, seed=1
    )
    data = {"name": "golden", "mean": [0.5] * 3, "std": [0.25] * 3, "class_names": [str(c) for c in range(5)]}
    save_export(folder, conversion, images=images, labels=torch.tensor([1, 2]), data=data)
    from safetensors.torch import load_file

    sums = json.loads((folder / "manifest.json").read_text())["vectors"]["layer_sums"]
    tensors = {**load_file(folder / "weights.safetensors"), **load_file(folder / "vectors.safetensors")}
    names = sorted(
        name for name in tensors if name in LASTING or name.startswith(("mask.", "0.", "3.", "6."))
    )
    return digest(sums, *[part for name in names for part in (name, tensors[name])])


LASTING = ("images", "labels", "inputs", "logits.floor", "logits.local")


def payloads(kind: str) -> str:
    """Kind and payload of every message of a two-party ReLU whose secrets come from a seed, and both shares.

    Headers are not of it: they name the session, which is another one every time.
    """
    relu = ReluCircuit(kind, DEFAULT_PRIME, 12 if kind == "truncated" else 0)
    x_s = np.arange(50, dtype=np.int64) * 40503777 % DEFAULT_PRIME
    t = np.arange(50, dtype=np.int64) * 97654321 % DEFAULT_PRIME
    dealt = TrustedDealer(DEFAULT_PRIME, 5).deal_on_demand() if relu.shares_bit else (None, None)
    parties = [server(relu, x_s, dealt[0], seed=1, chunk=32), client(relu, t, dealt[1], seed=2, chunk=32)]
    sent: list[object] = []
    inboxes: list[list[object]] = [[], []]
    wanted = [next(party) for party in parties]
    shares: list[np.ndarray | None] = [None, None]
    while any(share is None for share in shares):
        for me in range(2):
            while shares[me] is None and (wanted[me] is not None or inboxes[me]):
                try:
                    if wanted[me] is None:
                        wanted[me] = parties[me].send(inboxes[me].pop(0))
                    else:
                        sent += [int(wanted[me].kind), wanted[me].payload.tobytes()]
                        inboxes[1 - me].append(wanted[me])
                        wanted[me] = next(parties[me])
                except StopIteration as end:
                    shares[me] = end.value
    return digest(*sent, *[share.tolist() for share in shares])


def identities() -> str:
    config = {
        "model": {"name": "resnet8"},
        "fault": {"kind": "truncated_sign", "k": 12},
        "run": {"root": "x"},
        "seed": 0,
    }
    return digest(config_hash(config), fingerprint(config, {"checkpoint": "00"}))


CASES: dict[str, Callable[[Path], str]] = {
    "masks": lambda _: masks(),
    **{f"gates, {name}": lambda _, name=name: gates(name) for name in SPECS},
    **{f"layer, {name}": lambda _, name=name: layer(name) for name in SPECS},
    "export": lambda folder: export(folder / "export"),
    **{
        f"payloads, {kind}": lambda _, kind=kind: payloads(kind)
        for kind in ("truncated", "exact", "full")
    },
    "identities of runs": lambda _: identities(),
}


@pytest.mark.parametrize("case", list(CASES))
def test_bits_are_what_they_were(case: str, tmp_path: Path) -> None:
    assert CASES[case](tmp_path) == json.loads(GOLDEN.read_text())[case]


if __name__ == "__main__":
    import tempfile

    print(json.dumps({case: make(Path(tempfile.mkdtemp())) for case, make in CASES.items()}, indent=1))
