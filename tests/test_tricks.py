"""Every fragile trick can be switched off, changes no result, and is said on its page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from circa_train import tricks
from circa_train.fault import TruncatedSign
from circa_train.gc.aes import engines
from circa_train.kernels import keep_memory, ops
from circa_train.kernels.cpu import memory, team
from circa_train.nn import activation
from circa_train.nn.activation import StochasticReLU

ROOT = Path(__file__).parents[1]
CACHES = (
    tricks.allowed, activation._eager, engines.available_kernels, memory._madvise, team._runtime,
    team._openmp_parallel, team.thread_number,
)  # fmt: skip


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Switches a trick off as a new process would find it."""

    def forget() -> None:
        for cached in CACHES:
            cached.cache_clear()

    def switch_off(variable: str) -> None:
        monkeypatch.setenv(f"CIRCA_TRAIN_{variable}", "0")
        forget()

    yield switch_off
    monkeypatch.undo()
    forget()


def drawn(threads: int = 1) -> torch.Tensor:
    """What a site draws: the same, whichever way it takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        z = torch.randn(3, 8, 100, 100, generator=torch.Generator().manual_seed(0))
        result: torch.Tensor = StochasticReLU(TruncatedSign(14), seed=1, overflow="saturate")(z)
        return result
    finally:
        torch.set_num_threads(before)


def test_the_page_lists_the_variables_and_the_code_asks_for_them() -> None:
    page = (ROOT / "docs" / "kernels.md").read_text()
    code = "".join(path.read_text() for path in (ROOT / "circa_train").rglob("*.py"))
    assert set(re.findall(r"`(CIRCA_TRAIN_\w+)=0`", page)) == set(tricks.TRICKS)
    assert set(re.findall(r'allowed\("(\w+)"\)', code)) == set(tricks.TRICKS)


def test_a_value_that_means_nothing_is_refused(
    off: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    off("LARGE_PAGES")
    assert not tricks.allowed("CIRCA_TRAIN_LARGE_PAGES")
    monkeypatch.setenv("CIRCA_TRAIN_SHORT_WAY", "no")
    with pytest.raises(ValueError, match="CIRCA_TRAIN_SHORT_WAY = 'no': 0 switches off calls of the CPU"):
        tricks.allowed("CIRCA_TRAIN_SHORT_WAY")


def test_without_the_compiled_kernel_the_reference_computes(off: Callable[[str], None]) -> None:
    cpu, spec, before = torch.device("cpu"), TruncatedSign(14), drawn()
    assert ops.choose("auto", cpu, torch.float32, spec) == "cpu"
    off("CPU_KERNEL")
    assert activation._eager() is None
    assert ops.choose("auto", cpu, torch.float32, spec) == "reference"
    with pytest.raises(ValueError, match=r"'cpu' cannot run here: CIRCA_TRAIN_CPU_KERNEL=0 switches it off"):
        ops.choose("cpu", cpu, torch.float32, spec)
    assert torch.equal(drawn(), before)


def test_without_the_short_way_the_operator_computes(off: Callable[[str], None]) -> None:
    before = drawn()
    off("SHORT_WAY")
    assert activation._eager() is None
    assert ops.choose("auto", torch.device("cpu"), torch.float32, TruncatedSign(14)) == "cpu"
    assert torch.equal(drawn(), before)


def test_without_torchs_team_plain_threads_compute(off: Callable[[str], None]) -> None:
    before = drawn(threads=3)
    off("TORCH_TEAM")
    assert team._openmp_parallel() is None
    assert team.thread_number() == 0
    assert torch.equal(drawn(threads=3), before)


def test_memory_is_left_as_it_is(off: Callable[[str], None]) -> None:
    off("KEEP_MEMORY")
    assert not keep_memory()
    off("LARGE_PAGES")
    assert memory._madvise() is None
    assert memory.empty_like(torch.empty(2**20)).shape == (2**20,)


def test_without_compiled_aes_openssl_encrypts(off: Callable[[str], None]) -> None:
    off("COMPILED_AES")
    assert engines.available_kernels() == ("numpy",)
    assert engines.make_kernel(bytes(16)).name == "numpy"
