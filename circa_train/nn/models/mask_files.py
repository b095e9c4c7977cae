"""Files of masks over ReLU sites: ``.safetensors`` or ``.npz``, one entry per site, a JSON summary beside.

Entries may be bool or numbers that are all 0 or 1 (published masks are often float). The summary says which
sites there are, their shapes, and how many ReLUs are kept; it is for readers, and reading masks does not need
it.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from circa_train.files import file_digest, write_bytes, write_file, write_json
from circa_train.nn.models.kept_relus import as_bool


def save_masks(
    path: str | os.PathLike[str], masks: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> None:
    """Write masks as ``.safetensors`` or ``.npz``, atomically, and ``<name>.json`` beside them;
    ``load_masks`` is the inverse.

    Args:
        path: the file of masks.
        masks: by site, True keeps the ReLU.
        about: further JSON values for the summary.
    """
    path = Path(path)
    checked = {site: as_bool(site, mask).contiguous().cpu() for site, mask in masks.items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        write_bytes(path, save(checked))
    elif path.suffix == ".npz":
        arrays: dict[str, Any] = {site: mask.numpy() for site, mask in checked.items()}
        write_file(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
    else:
        raise ValueError(f"masks are written as .safetensors or .npz, not {path.name!r}")
    write_json(
        path.with_suffix(".json"),
        {"format": 1, "file": path.name, "sha256": file_digest(path), **summary(checked), **(about or {})},
    )


def summary(masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """Kept and all ReLUs, in total and by site."""
    sites = {
        site: {"shape": list(mask.shape), "kept": int(mask.sum()), "relus": mask.numel()}
        for site, mask in masks.items()
    }
    return {
        "kept": sum(site["kept"] for site in sites.values()),
        "relus": sum(site["relus"] for site in sites.values()),
        "sites": sites,
    }


def load_masks(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read masks from ``.safetensors`` or ``.npz``. ValueError names the file, or the site, that is not as it
    should be.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"there is no mask file {path}; write one with save_masks, or correct the reduction's 'masks'"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            raw: Mapping[str, Any] = load_file(path)
        elif path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                raw = {site: torch.from_numpy(archive[site]) for site in archive.files}
        else:
            raise ValueError(
                "masks are read from .safetensors or .npz; circa_train.checkpoint.load_snl reads the "
                "checkpoints that SNL's own code writes"
            )
    except (ValueError, OSError, TypeError, zipfile.BadZipFile, zlib.error, _safetensors_error()) as error:
        raise ValueError(f"cannot read the mask file {path}: {error}") from error
    return {site: as_bool(site, mask) for site, mask in raw.items()}


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
