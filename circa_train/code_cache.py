"""Machine code that numba keeps on the disk, used only if it is what was written.

numba looks for its files beside the source, else in the user's cache folder; it fails where neither can be
written, and executes whatever bytes it finds. So beside its files lies their digest (``.sha256``). Files
without the right one are removed and the code is compiled anew; where nothing can be kept, it is compiled in
every process. One process at a time writes: others wait, and find its files.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache

from circa_train.files import file_digest, write_text


def compiled(decorator: Callable[..., Any], function: Callable[..., None]) -> Any:
    """``decorator(cache=True)(function)``, and without the cache, with a warning, where that fails. The
    decorator is numba's ``cfunc`` or ``njit`` with a signature.
    """
    try:
        place = FunctionCache(function)
        folder = Path(place.cache_path)
        stem = str(place._impl.filename_base)
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{stem}.lock"):
            _remove_damaged(folder, stem)
            made = decorator(cache=True)(function)
            if not from_cache(made):
                write_text(folder / f"{stem}.sha256", _digest(folder, stem))
        return made
    except Exception as error:
        # RuntimeError: there is no place for a cache; OSError: it cannot be read or written; whatever reading
        # a damaged pickle raises. If the code itself does not compile, the next line says so.
        made = decorator(cache=False)(function)
        warnings.warn(
            f"the compiled kernel cannot be kept on the disk ({type(error).__name__}: {error}); every "
            "process compiles it, which takes some seconds. Set NUMBA_CACHE_DIR to a folder that can be "
            "written",
            stacklevel=2,
        )
        return made


def from_cache(made: Any) -> bool:
    """Was compiled code found on the disk?"""
    return bool(made.stats.cache_hits if hasattr(made, "stats") else made.cache_hits)


def _remove_damaged(folder: Path, stem: str) -> None:
    told, files = folder / f"{stem}.sha256", _files(folder, stem)
    if not files or (told.is_file() and told.read_text(encoding="utf-8") == _digest(folder, stem)):
        return
    if told.is_file():  # else numba's files are from before there was a digest
        warnings.warn(
            f"the compiled kernel in {folder} is damaged; compiling it again", stacklevel=3
        )
    for file in (told, *files):
        file.unlink(missing_ok=True)


def _files(folder: Path, stem: str) -> list[Path]:
    return sorted(f for f in folder.glob(f"{stem}.*") if f.suffix in (".nbi", ".nbc"))


def _digest(folder: Path, stem: str) -> str:
    return "\n".join(f"{file_digest(file)} {file.name}" for file in _files(folder, stem))


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
