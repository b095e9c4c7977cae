"""The server's network: an export folder, read with numpy alone."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from circa_train.export.folder import read_folder
from circa_train.export.layers import ExportError
from circa_train.pi.architecture import Architecture, ArchitectureError, Tensors

#: The formats of the folder that say who holds which share.
FORMATS = (2, 3)

#: What the sums of |weights| times p / 2 may reach, so that int64 holds every accumulator.
_LARGEST_SUM = 2**62


@dataclass(frozen=True, eq=False)
class Network:
    """An architecture and its weights.

    Attributes:
        architecture: the public part.
        tensors: weights, biases and indices, int64.
        digest: SHA-256 of the folder's list of checksums.
        vectors: the folder's test vectors, int64 and uint8 as they are stored.
    """

    architecture: Architecture
    tensors: Tensors
    digest: str
    vectors: dict[str, NDArray[Any]]

    @cached_property
    def parameters_digest(self) -> bytes:
        """SHA-256 of all weights and biases with their names, 32 bytes."""
        found = hashlib.sha256(b"circa_train parameters")
        for name, tensor in sorted(self.tensors.items()):
            found.update(f"{name} {list(tensor.shape)}\n".encode())
            found.update(np.ascontiguousarray(tensor, dtype="<i8").data)
        return found.digest()


def load_network(folder: str | os.PathLike[str]) -> Network:
    """Read an export folder for private inference.

    Raises:
        ExportError: naming the file that is missing, damaged, extra or not understood, or the layer that
            contradicts the others or that the protocol cannot run.
    """
    folder = Path(folder)
    contents, digest = read_folder(folder)
    try:
        manifest = json.loads(contents["manifest.json"])
        if manifest.get("format") not in FORMATS:
            raise ExportError(
                f"format {manifest.get('format')!r} does not say who holds which share; export the network "
                "anew"
            )
        if manifest.get("ring_bits") is not None:
            raise ExportError(
                "a network of bit windows lives in the ring Z_2^64; this protocol runs Circa's sign tests "
                "over a field Z_p: export with fault=poszero or negpass"
            )
        tensors = {
            name: tensor.astype(np.int64)
            for name, tensor in safetensors.numpy.load(contents["weights.safetensors"]).items()
        }
        vectors = safetensors.numpy.load(contents["vectors.safetensors"])
        architecture = Architecture.from_manifest(manifest, tensors)
        _check_shares(manifest, architecture)
        _check_sums(architecture, tensors)
    except (ExportError, ArchitectureError) as error:
        raise ExportError(f"{folder}: {error}") from error
    except Exception as error:  # what a stranger's bytes may make a parser raise is no list
        raise ExportError(f"{folder} is not understood: {type(error).__name__}: {error}") from error
    return Network(architecture, tensors, digest, vectors)


def _check_shares(manifest: dict[str, Any], architecture: Architecture) -> None:
    for entry in manifest["layers"]:
        holding = architecture.held[entry["name"]]
        if entry["shares"] != holding.to_value():
            raise ExportError(
                f"layer {holding.layer!r}: shares are {entry['shares']}, but its place among the layers says "
                f"{holding.to_value()}"
            )


def _check_sums(architecture: Architecture, tensors: Tensors) -> None:
    """No sum of a linear layer may leave int64, whatever its inputs in the field."""
    for layer in architecture.layers:
        if "weight" in layer.tensors:
            weight, bias = (tensors[f"{layer.name}.{leaf}"] for leaf in ("weight", "bias"))
            heaviest = int(np.abs(weight).reshape(len(weight), -1).sum(1).max())
            if heaviest * architecture.prime + int(np.abs(bias).max()) >= _LARGEST_SUM:
                raise ExportError(f"layer {layer.name}: its weights sum to {heaviest}, too much for int64")
