"""What a benchmark ran on: figures of two machines mean something only with their instruction sets beside
them.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from circa_train.gc.aes import available_kernels
from circa_train.kernels import mask_vector_bits

#: What the kernels make use of, the widest first, by the name that Linux and LLVM give it.
_EXTENSIONS = ("avx512f", "avx2", "avx", "vaes", "aes", "neon", "asimd")


def describe_machine() -> dict[str, Any]:
    """The processor, its instruction set, and the width of the kernels that run on it.

    Returns:
        dict ready for JSON: "processor" (its name, or the architecture's); "architecture"; "extensions" (of
        those that the kernels make use of); "circuit_kernel" (AES); "mask_vector_bits" (None where masks are
        not compiled); "threads"; "cuda" (names of the devices).
    """
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "extensions": [name for name in _EXTENSIONS if name in _flags()],
        "circuit_kernel": available_kernels()[0],
        "mask_vector_bits": mask_vector_bits(),
        "threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The same in one line."""
    bits = machine["mask_vector_bits"]
    masks = "masks not compiled" if bits is None else f"masks in vectors of {bits} bits"
    return (
        f"{machine['processor']} ({machine['architecture']}: {' '.join(machine['extensions']) or 'plain'}), "
        f"{machine['threads']} threads; circuits by {machine['circuit_kernel']}, {masks}; "
        f"CUDA: {', '.join(machine['cuda']) or 'no device here, so no GPU rows'}"
    )


def _cpu_info(key: str) -> str:
    """The first value of a key in Linux's list of processors; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


def _processor() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _flags() -> set[str]:
    return set((_cpu_info("flags") or _cpu_info("Features")).split())
