"""Kept machine code: used if it is what was written, and done without, with a warning, wherever it is not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import pytest
from numba import types
from numba.core import caching

from circa_train import code_cache
from circa_train.code_cache import compiled

FUNCTION = partial(numba.cfunc, types.void(types.CPointer(types.int64)))


def add_seventeen(place: Any) -> None:
    place[0] = place[0] + 17


def right(made: Any) -> bool:
    """Does the compiled code do what its source says?"""
    value = ctypes.c_int64(25)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(made.address)(ctypes.addressof(value))
    return value.value == 42


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Path]]:
    """numba's files with an ending, in a cache of this test's own."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return lambda ending: sorted((tmp_path / "cache").rglob(f"*{ending}"))


def test_code_is_kept_and_found(cache: Callable[[str], list[Path]]) -> None:
    first = compiled(FUNCTION, add_seventeen)
    assert right(first)
    assert not first.cache_hits
    assert cache(".nbc")
    assert cache(".nbi")
    assert len(cache(".sha256")) == 1
    second = compiled(FUNCTION, add_seventeen)
    assert right(second)
    assert second.cache_hits


@pytest.mark.parametrize("ending", [".nbc", ".nbi", ".sha256"])
@pytest.mark.parametrize("damage", ["flipped", "emptied", "gone"])
def test_damaged_code_is_compiled_again(
    cache: Callable[[str], list[Path]], ending: str, damage: str
) -> None:
    compiled(FUNCTION, add_seventeen)
    (file,) = cache(ending)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes(content) if damage == "flipped" else b"")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = compiled(FUNCTION, add_seventeen)
    assert right(made)
    assert not made.cache_hits
    without_digest = (ending, damage) == (".sha256", "gone")  # as numba alone leaves its files
    assert len(told) == (0 if without_digest else 1)
    assert all("is damaged; compiling it again" in str(each.message) for each in told)
    again = compiled(FUNCTION, add_seventeen)
    assert right(again)
    assert again.cache_hits


def test_a_pickle_that_cannot_be_read_though_its_digest_is_right(cache: Callable[[str], list[Path]]) -> None:
    compiled(FUNCTION, add_seventeen)
    (index,), (digest,) = cache(".nbi"), cache(".sha256")
    index.write_bytes(b"no pickle")
    digest.write_text(code_cache._digest(digest.parent, digest.stem))
    with pytest.warns(UserWarning, match="cannot be kept on the disk"):
        assert right(compiled(FUNCTION, add_seventeen))


def test_no_place_to_keep_code_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """As numba finds it where neither its folder, nor that of the source, nor the user's can be written."""
    monkeypatch.setattr(caching.FunctionCache._impl_class, "_locator_classes", [])
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        assert right(compiled(FUNCTION, add_seventeen))


def test_a_full_disk(cache: Callable[[str], list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(code_cache, "write_text", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert right(compiled(FUNCTION, add_seventeen))


def test_code_that_is_wrong_is_an_error_of_its_own(cache: Callable[[str], list[Path]]) -> None:
    def wrong(place: Any) -> None:
        place.nonsense()

    with pytest.raises(numba.core.errors.TypingError):
        compiled(FUNCTION, wrong)


PROGRAM = """
import warnings, torch
from numba.core import caching
caching.FunctionCache._impl_class._locator_classes = []  # no place that can be written
from circa_train import TruncatedSign
from circa_train.kernels import reference
from circa_train.kernels.cpu import launch
from circa_train.kernels.settings import SiteSettings
z, address = torch.randn(3, 901), torch.tensor([2, 1])
settings = SiteSettings(TruncatedSign(12), 14, 9, 1, "wrap")
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    y, _ = launch.forward(z, settings, address, False)
assert torch.equal(y, reference.forward(z, settings, address, False)[0])
print(len(told))
"""


@pytest.mark.slow
def test_the_kernel_itself_without_a_cache() -> None:
    root = Path(code_cache.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1
