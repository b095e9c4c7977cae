"""The files a job reads, as part of its fingerprint: a result on an overwritten checkpoint is stale; and the
identity of the data that it saw, because a result on other data under the same name is none.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from circa_train import user_code
from circa_train.files import file_digest, read_json
from circa_train.runs import flatten

#: Keys of configurations that name a file (or folder) whose contents enter the result.
INPUT_KEYS = (
    "checkpoint", "teacher", "fault.path", "fault.frac_bits", "model.reduction.masks", "reduction.price.path"
)

#: The option of the groups ``model``, ``data`` and ``fault`` that stands for what the checkpoint says.
FROM_CHECKPOINT = "checkpoint"

#: Keys that may name code of the user's own, whose source file enters the result.
CODE_KEYS = ("model.name", "data.name")


def input_digests(config: Mapping[str, Any]) -> dict[str, str]:
    """Digest of every input that exists; a missing one is left to the job, which says what it needed it
    for.
    """
    values = flatten(config)
    code = {key: values.get(key) for key in CODE_KEYS if user_code.is_reference(values.get(key))}
    if values.get("fault.kind") == "python":
        code["fault.path"] = values.get("fault.path")
    if values.get("run.trust_code"):
        code |= _named_by(str(values.get("checkpoint")))
    named = {key: values[key] for key in INPUT_KEYS if values.get(key) not in (None, "", "???")}
    paths = {key: Path(value) for key, value in named.items() if isinstance(value, str)}
    digests = {key: _digest(str(path), *_stamp(path)) for key, path in paths.items() if path.exists()}
    sources = {
        key: user_code.source_digest(str(name)) for key, name in code.items() if name not in (None, "???")
    }
    return digests | {key: digest for key, digest in sources.items() if digest is not None}


def refuse_unnamed_code(config: Mapping[str, Any]) -> None:
    """Say at once, before anything is compared or loaded, what code of somebody's own a checkpoint needs and
    the command does not name.

    It goes by the metadata beside the checkpoint, which may be missing. What protects is what loading asks.

    Raises:
        UnnamedCode: naming network, data and sign test together.
    """
    values = flatten(config)
    checkpoint = str(values.get("checkpoint"))
    metadata = _beside(checkpoint)
    references = _named_by(checkpoint)
    needed = {
        "model of the checkpoint": ("model.name", f"model.name={references.get('model of the checkpoint')}"),
        "data of the checkpoint": ("data.name", f"data.name={references.get('data of the checkpoint')}"),
        "fault of the checkpoint": ("fault.kind", naming_its_fault(metadata)),
    }
    asked = {
        references[part]: how
        for part, (key, how) in needed.items()
        if part in references and values.get(key) == FROM_CHECKPOINT
    }
    try:
        user_code.require_named(asked, trusted=bool(values.get("run.trust_code")))
    except user_code.UnnamedCode as error:
        raise user_code.UnnamedCode(f"{checkpoint} is not opened: {error}") from None


def naming_its_fault(metadata: Mapping[str, Any]) -> str:
    """What a command says to name the sign test that a checkpoint was trained with."""
    trained = {key: value for key, value in (metadata.get("fault") or {}).items() if key != "kind"}
    fields = "".join(f" fault.{key}={value}" for key, value in trained.items())
    return f"fault=python fault.path={metadata.get('fault_code')}{fields}"


def _beside(checkpoint: str) -> Mapping[str, Any]:
    return read_json(Path(checkpoint).with_suffix(".json")) or {}


def _named_by(checkpoint: str) -> dict[str, str]:
    """The code of somebody's own that the metadata beside a checkpoint name."""
    metadata = _beside(checkpoint)
    named = {
        f"{part} of the checkpoint": (metadata.get(part) or {}).get("name") for part in ("model", "data")
    }
    references = {key: str(name) for key, name in named.items() if user_code.is_reference(name)}
    if metadata.get("fault_code"):
        references["fault of the checkpoint"] = metadata["fault_code"]
    return references


def _stamp(path: Path) -> tuple[int, int]:
    """(newest modification time, total size) of a file, or of all files of a folder."""
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    stats = [os.stat(f) for f in files]
    return max((s.st_mtime_ns for s in stats), default=0), sum(s.st_size for s in stats)


@functools.lru_cache(maxsize=64)
def _digest(path: str, _newest: int, _size: int) -> str:
    """A sweep of a thousand jobs reads its checkpoint once: the stamp is in the key."""
    return file_digest(path)


#: Folders of data sets whose files nothing vouches for, beside those that the name itself gives. The other
#: public sets are compared with their official checksums when they are decoded.
_DATA_FOLDERS = {"tiny_imagenet": "tiny-imagenet-200"}
_FOLDER_PREFIX = "imagefolder:"

#: A look at the files of a large set takes seconds, and a sweep looks before every job: one that took longer
#: than this is not repeated before it is 2% of the time that has passed since.
_QUICK, _SHARE = 0.02, 0.02
_LOOKS: dict[tuple[str, ...], tuple[float, float, str]] = {}

#: Sets whose contents their name settles: official checksums, embedded images, a formula.
_SETTLED = ("digits", "synthetic", "cifar10", "cifar100", "fashion_mnist", "checkpoint")


def data_identity(
    name: str | None, root: str | os.PathLike[str], named: Callable[[str], bool] = lambda name: True
) -> str | None:
    """What tells a data set from another one under the same name; None where the name settles it.

    Of images in files, a digest of their paths, sizes and modification times. Of a set of the user's own,
    whose files nobody but its code knows, a digest of the images and labels that the code returns now.

    Args:
        name: of the data set.
        root: folder of the public data sets, which the user's code gets, too.
        named: may code that this name refers to be run? Not because a file says so.
    """
    if name is None or name in ("", "None", "???") or name.partition(":")[0] in _SETTLED:
        return None
    if name.startswith(_FOLDER_PREFIX):
        place = Path(name.removeprefix(_FOLDER_PREFIX)).expanduser()
    elif name in _DATA_FOLDERS:
        place = Path(root).expanduser() / _DATA_FOLDERS[name]
    elif user_code.is_reference(name) and not named(name):
        return "code that was not named"
    else:
        return _looked((name, str(root)), functools.partial(_own_digest, name, root))
    place = place.absolute()
    return _looked((str(place),), functools.partial(_files_digest, place))


def _looked(key: tuple[str, ...], look: Callable[[], str]) -> str:
    seen, cost, found = _LOOKS.get(key, (0.0, 0.0, ""))
    started = time.monotonic()
    if not found or cost < _QUICK or started - seen > cost / _SHARE:
        found, ended = look(), time.monotonic()
        _LOOKS[key] = ended, ended - started, found
    return found


def _own_digest(name: str, root: str | os.PathLike[str]) -> str:
    """Digest of what the user's code returns; where it fails, of how: the job says why."""
    from circa_train.checkpoint import digest  # these need torch, and other sets do not
    from circa_train.data import decode_own

    try:
        decoded = decode_own(name, root)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    parts = (decoded.train, decoded.test, decoded.validation)
    tensors = [None if part is None else [part.images, part.labels] for part in parts]
    return digest([tensors, list(decoded.class_names)])


def _files_digest(place: Path) -> str:
    digest = hashlib.sha256()
    for line in sorted(_listing(place)):
        digest.update(line)
    return digest.hexdigest()


def _listing(place: Path) -> Iterator[bytes]:
    """A line for every file below a folder that is not hidden; links are followed, circles left out."""
    pending, known = [(place, b"")], set()
    while pending:
        folder, name = pending.pop()
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except OSError as error:  # the job says what it needed it for
            yield name + f"\0{type(error).__name__}".encode()
            continue
        if (status.st_dev, status.st_ino) in known:
            continue
        known.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = name + b"/" + os.fsencode(entry.name)
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    pending.append((Path(entry.path), path))
                else:
                    file = entry.stat()
                    yield path + f"\0{file.st_size}\0{file.st_mtime_ns}".encode()
            except OSError:  # a link that leads nowhere
                yield path + b"\0"
