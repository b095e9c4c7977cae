"""The export folder: everything that a private inference runtime needs, and the means to check it.

    manifest.json          what is computed: field, scales, layers, k and mode of every site, normalisation,
                           classes, accuracy
    weights.safetensors    int32 weights, biases and indices
    vectors.safetensors    images, inputs, masks, and the logits that they give, with faults and without, for
                           every way to rescale; pairs for every sign test and rescaling
    network.onnx           the real network
    README.md, reader.py   the format in words, and in 95 lines of numpy
    SHA256SUMS             digest of every file, as ``sha256sum -c`` reads it

The folder appears whole or not at all. Reading it checks every digest, refuses anything that is missing,
changed or extra, and executes nothing: tensors come from safetensors, the rest is JSON whose fields are
checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from circa_train.export.convert import Conversion
from circa_train.export.folder import SUMS, read_folder
from circa_train.export.inference import check_plan
from circa_train.export.integer import IntegerNetwork
from circa_train.export.layers import ExportError
from circa_train.export.manifest import FORMATS, check_described, describe, require_int64, restore
from circa_train.export.onnx_file import onnx_bytes, real_graph
from circa_train.export.quantize import IntegerPlan
from circa_train.export.readme import README, reader_text
from circa_train.export.real import RealNetwork
from circa_train.export.twin import check_twin, real_logits
from circa_train.export.vectors import check_vectors, make_vectors
from circa_train.fault import SignTest
from circa_train.files import json_text, whole_folder, write_bytes


@dataclass(frozen=True)
class Export:
    """An export folder, read and checked.

    Attributes:
        folder: where it lies.
        manifest: the contents of ``manifest.json``.
        network: ready to run.
        vectors: the test vectors.
        onnx: the contents of ``network.onnx``.
        digest: SHA-256 of ``SHA256SUMS``, which stands for every byte of the folder.
    """

    folder: Path
    manifest: dict[str, Any]
    network: IntegerNetwork
    vectors: dict[str, Tensor]
    onnx: bytes
    digest: str

    def real_network(self, *, seed: int = 0, overflow: str = "raise") -> RealNetwork:
        """The real network with the same sign tests: the float simulator of this export."""
        frac_bits = self.network.plan.format.accumulator_frac_bits
        graph = _parse("network.onnx", self.folder, lambda: real_graph(self.onnx, self.network.plan))
        return RealNetwork(
            graph, self.network.specs, frac_bits=frac_bits, seed=seed, overflow=overflow
        ).eval()


def save_export(
    folder: str | os.PathLike[str],
    conversion: Conversion,
    *,
    images: Tensor,
    labels: Tensor,
    data: Mapping[str, Any],
    accuracy: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Write an export folder; one that is there already is replaced.

    Args:
        folder: to be made.
        conversion: from :func:`~circa_train.export.convert.to_integers`.
        images: uint8 (n, C, H, W) for the test vectors; scripts/export.py gives 20. ``labels`` int64 (n,) are
            recorded with them.
        data: ``name``, ``mean``, ``std`` and ``class_names`` of the data set.
        accuracy: of the integer network, as JSON values.
        provenance: where the network comes from, as JSON values.

    Returns:
        The digest that stands for the whole folder.

    Raises:
        ExportError: if a folder of that name is no export, or int64 arithmetic could overflow in a layer.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / SUMS).is_file():
        raise ExportError(f"{folder} exists and is no export folder; choose another name, or remove it")
    network = conversion.network
    require_int64(network.plan)
    vectors, described = make_vectors(network, images, labels, mean=data["mean"], std=data["std"])
    described["real_logits"] = real_logits(conversion.graph, images, data["mean"], data["std"])
    manifest = describe(conversion, data, accuracy, provenance) | {"vectors": described}
    files = {
        "manifest.json": json_text(manifest).encode(),
        "weights.safetensors": safetensors.torch.save(
            {k: v.contiguous() for k, v in network.plan.tensors.items()}
        ),
        "vectors.safetensors": safetensors.torch.save(vectors),
        "network.onnx": onnx_bytes(conversion.graph),
        "README.md": README.encode(),
        "reader.py": reader_text().encode(),
    }
    listing = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()
    ).encode()
    with whole_folder(folder, replace=True) as new:
        for name, content in (files | {SUMS: listing}).items():
            write_bytes(new / name, content)
    return hashlib.sha256(listing).hexdigest()


def open_export(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    rescaling: str | None = None,
    overflow: str = "raise",
    digest: str | None = None,
) -> Export:
    """Read an export folder, every file checked.

    Args:
        folder: written by :func:`save_export`.
        seed, rescaling, overflow: of the :class:`IntegerNetwork`; rescaling as the manifest says by default.
        digest: what :func:`save_export` returned, if it was kept: then not even a folder whose checksums were
            rewritten with it passes.

    Raises:
        ExportError: naming the file that is missing, damaged, extra, or not understood.
    """
    folder = Path(folder)
    contents, found = read_folder(folder)
    if digest is not None and digest != found:
        raise ExportError(f"{folder} has the digest {found}, expected {digest}; it is another export")
    manifest = _parse(
        "manifest.json", folder, lambda: json.loads(contents["manifest.json"], parse_constant=_no_constant)
    )
    weights = _parse(
        "weights.safetensors", folder, lambda: safetensors.torch.load(contents["weights.safetensors"])
    )
    vectors = _parse(
        "vectors.safetensors", folder, lambda: safetensors.torch.load(contents["vectors.safetensors"])
    )
    found_format = manifest.get("format") if isinstance(manifest, dict) else None
    if found_format not in FORMATS:
        raise ExportError(
            f"{folder}/manifest.json is of format {found_format!r}, none of those this version reads: "
            f"{', '.join(map(str, FORMATS))}; update circa_train"
        )
    plan, specs = _parse("manifest.json", folder, lambda: _checked(manifest, weights))
    rescaling = manifest["rescaling"] if rescaling is None else rescaling
    network = IntegerNetwork(plan, specs, seed=seed, rescaling=rescaling, overflow=overflow)
    return Export(folder, manifest, network, vectors, contents["network.onnx"], found)


def load_export(folder: str | os.PathLike[str], **options: Any) -> IntegerNetwork:
    """The integer network of an export folder; options and errors as :func:`open_export`."""
    return open_export(folder, **options).network


def is_export(path: str | os.PathLike[str]) -> bool:
    """Does ``path`` look like an export folder? (Whether it is a sound one, :func:`open_export` says.)"""
    return (Path(path) / SUMS).is_file() and (Path(path) / "manifest.json").is_file()


def check_export(export: Export) -> None:
    """Recompute the test vectors from the weights, and compare the real network with them: ExportError naming
    the first layer, pair or logit that differs.
    """
    described, version = export.manifest["vectors"], export.manifest["format"]

    def check() -> None:
        check_vectors(export.network, export.vectors, described, version)
        check_twin(export.onnx, export.network, export.manifest, export.vectors)

    _parse("vectors.safetensors", export.folder, check)


def _checked(manifest: dict[str, Any], weights: dict[str, Tensor]) -> tuple[IntegerPlan, dict[str, SignTest]]:
    """The network of a manifest that does not contradict itself."""
    plan, specs = restore(manifest, weights)
    check_plan(plan, specs)
    check_described(manifest, plan)
    require_int64(plan)
    return plan, specs


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _parse(name: str, folder: Path, read: Any) -> Any:
    """Whatever a file that is not what it should be makes its parser raise, as one error that names the
    file.
    """
    try:
        return read()
    except ExportError as error:
        raise ExportError(f"{folder}/{name}: {error}") from error
    except ImportError:
        raise
    except Exception as error:  # what a stranger's bytes may make a parser raise is no list
        raise ExportError(f"{folder}/{name} is not understood: {type(error).__name__}: {error}") from error
