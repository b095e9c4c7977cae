"""Damage to every kind of file that jobs leave behind: flipped bits, cut, empty, swapped and foreign bytes.

What is read from a damaged file must be what was written, or a named error; a cache must be made anew.
"""

from __future__ import annotations

import operator
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from circa_train import TruncatedSign, build_model
from circa_train.checkpoint import CheckpointError, digest, load_checkpoint, save_checkpoint
from circa_train.data.cache import cached
from circa_train.data.images import Decoded, ImageSet
from circa_train.export import save_export, to_integers
from circa_train.export.bundle import open_export
from circa_train.export.layers import ExportError
from circa_train.runs.folder import RunFolder
from circa_train.runs.metrics import JsonLinesTracker, read_metrics
from circa_train.runs.table import collect
from tests.torture.tally import Tally

#: Seconds that one damaged file may take.
PATIENCE = 10.0


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        make: writes sound files into a folder.
        read: what a reader gets from the folder, comparable by ``==``.
        errors: by which damage may be refused.
        harmless: whether something else than what was written, (got, right), may be read.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    harmless: Callable[[Any, Any], bool] = operator.eq


def make_checkpoint(folder: Path) -> None:
    model = build_model("resnet8", num_classes=4, image_size=8, in_channels=1, width=0.125, seed=1)
    state = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "epoch": 3, "losses": [0.5, 0.25]}
    save_checkpoint(folder / "a.pt", model, {"metrics": {"accuracy": 0.5}}, state)
    (folder / "a.json").unlink()  # for people; no code reads it


def read_checkpoint(folder: Path) -> Any:
    checkpoint = load_checkpoint(folder / "a.pt")
    return digest([checkpoint.state_dict, checkpoint.metadata, checkpoint.training_state])


_SOURCE = Path(__file__)


def _decode() -> Decoded:
    images = torch.arange(10 * 3 * 4 * 4).remainder(251).to(torch.uint8).reshape(10, 3, 4, 4)
    whole = ImageSet(images, torch.arange(10) % 2)
    return Decoded(whole, whole.subset(torch.tensor([1, 2])), ("a", "b"))


def make_cache(folder: Path) -> None:
    cached(folder, "x", [_SOURCE], {}, _decode)


def read_cache(folder: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # that the cache is damaged
        data = cached(folder, "x", [_SOURCE], {}, _decode)
    sets = (data.train, data.test)
    return [part.images.tolist() for part in sets], [part.labels.tolist() for part in sets], data.class_names


def make_export(folder: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2 * 3 * 3, 3)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            steps = torch.arange(parameter.numel()) * 40503 % 1021 - 510
            parameter.copy_((steps / 2**10).reshape(parameter.shape))
    images = (torch.arange(2 * 8 * 8) * 97 % 256).to(torch.uint8).reshape(2, 1, 8, 8)
    conversion = to_integers(
        model, TruncatedSign(9), [images.float() / 256], frac_bits=16, weight_frac_bits=8, seed=1
    )
    data = {"name": "x", "mean": [0.5], "std": [0.25], "class_names": ["a", "b", "c"]}
    save_export(folder / "export", conversion, images=images, labels=torch.tensor([1, 2]), data=data)


def read_export(folder: Path) -> Any:
    export = open_export(folder / "export")
    return export.digest


def make_results(folder: Path) -> None:
    for k in (8, 12):
        config = {"model": {"name": "resnet8"}, "fault": {"kind": "truncated_sign", "k": k}, "seed": 0}
        run = RunFolder(folder / str(k), "train", config, (f"fault.k={k}",))
        run.start(f"k: {k}\n")
        run.finish({"best_accuracy": 0.75 - k / 100, "epochs": 5})


def read_results(folder: Path) -> Any:
    """The rows; None in place of one that was skipped by name."""
    found = collect(folder)
    if found.skipped:
        raise ValueError(str(found.skipped))
    return found.rows


def make_metrics(folder: Path) -> None:
    tracker = JsonLinesTracker(folder)
    for step in range(5):
        tracker.log({"loss": 1 / (step + 1), "accuracy": step / 10}, step)
    tracker.finish()


def read_lines(folder: Path) -> Any:
    return read_metrics(folder)


def is_cut_off(got: Any, right: Any) -> bool:
    """A metrics file that ends early is what a killed run leaves; its checkpoint says what is missing."""
    return bool(got == right[: len(got)])


KINDS = {
    "checkpoints": Kind(make_checkpoint, read_checkpoint, (CheckpointError,)),
    "caches": Kind(make_cache, read_cache, ()),
    "export folders": Kind(make_export, read_export, (ExportError,)),
    "results": Kind(make_results, read_results, (ValueError,)),
    "metrics": Kind(make_metrics, read_lines, (ValueError,), is_cut_off),
}


def damage(rng: random.Random, content: bytes, others: list[bytes]) -> tuple[str, bytes]:
    """(what was done, the damaged bytes)."""
    length = len(content)
    place = rng.randrange(length) if length else 0
    match rng.choice(("flip", "flip", "flip", "cut", "append", "blank", "swap", "empty", "foreign", "drop")):
        case "flip" if length:
            damaged = bytearray(content)
            for _ in range(rng.choice((1, 1, 1, 4))):
                damaged[rng.randrange(length)] ^= 1 << rng.randrange(8)
            return "flipped bits", bytes(damaged)
        case "cut":
            return f"cut off at {place}", content[:place]
        case "append":
            return "extended", content + rng.randbytes(rng.choice((1, 512, 4096)))
        case "blank":
            return "a block of zeros", content[:place] + bytes(min(512, length - place)) + content[
                place + 512 :
            ]
        case "swap" if length > 64:
            half = length // 2
            return "halves swapped", content[half:] + content[:half]
        case "foreign":
            return "another file's bytes", rng.choice(others)
        case "drop" if length > 1:
            return f"without byte {place}", content[:place] + content[place + 1 :]
    return "emptied", b""


def damaged_files(count: int, seed: int, folder: Path, kinds: dict[str, Kind] = KINDS) -> Tally:
    """``count`` damaged files, the kinds by turns, each read once and then mended."""
    rng, tally = random.Random(seed), Tally()
    for number in range(count):
        name = list(kinds)[number % len(kinds)]
        kind, place = kinds[name], folder / name.replace(" ", "_")
        if not place.exists():
            place.mkdir(parents=True)
            kind.make(place)
        if number < len(kinds) or name == "caches":  # a damaged cache has been made anew
            sound = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
            _SOUND[name] = sound, kind.read(place)
        sound, right = _SOUND[name]
        path = rng.choice(list(sound))
        done, wrong = damage(
            rng, sound[path], [content for other, content in sound.items() if other != path] or [b"x"]
        )
        path.write_bytes(wrong)
        what = f"seed {seed}, number {number}: {path.relative_to(folder)}, {done}"
        started = time.monotonic()
        try:
            got = kind.read(place)
        except kind.errors as error:
            tally.outcomes[f"{name}: {type(error).__name__}"] += 1
        except Exception as error:
            tally.raised.append(f"{what}: {error!r}")
        else:
            tally.outcomes[f"{name}: read"] += 1
            if not kind.harmless(got, right):
                tally.wrong.append(f"{what}: other values")
        if time.monotonic() - started > PATIENCE:
            tally.hung.append(what)
        tally.counts[f"damaged {name}"] += 1
        if path.parent.exists():
            path.write_bytes(sound[path])
    return tally


_SOUND: dict[str, tuple[dict[Path, bytes], Any]] = {}
