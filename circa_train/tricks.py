"""The fragile tricks of the kernels, and the environment variables that switch them off.

Each trick makes something faster and changes no result. It relies on something that nobody promises: how the
C library, torch, numba or LLVM works inside. If one fails on a machine, the user can do without it.
``docs/kernels.md`` says where each trick is, why, and what happens without it.
"""

from __future__ import annotations

import functools
import os

#: The variables, with what a 0 switches off.
TRICKS = {
    "CIRCA_TRAIN_COMPILED_AES": "the compiled AES engine: garbled circuits use OpenSSL and numpy",
    "CIRCA_TRAIN_CPU_KERNEL": "the compiled CPU kernel: backend='auto' takes the reference",
    "CIRCA_TRAIN_SHORT_WAY": "calls of the CPU kernel past torch's dispatcher",
    "CIRCA_TRAIN_TORCH_TEAM": "the use of torch's own threads: the CPU kernel starts threads of its own",
    "CIRCA_TRAIN_KEEP_MEMORY": "keeping freed memory in the process",
    "CIRCA_TRAIN_LARGE_PAGES": "asking the system for large pages",
}


@functools.cache
def allowed(variable: str) -> bool:
    """Whether the trick of that variable is allowed: yes, unless the variable is 0. It is read once.

    Raises:
        ValueError: if the variable is set to anything but 0 or 1.
    """
    assert variable in TRICKS, variable
    value = os.environ.get(variable, "1")
    if value not in ("0", "1"):
        raise ValueError(f"{variable} = {value!r}: 0 switches off {TRICKS[variable]}; leave it out otherwise")
    return value == "1"
