"""What torch is doing while a site is computed, as far as only torch's private names tell.

Every private name of torch that the kernels use is in this file. A new version of torch may rename one. Then
the answers below are the careful ones: the slower way is taken, and the bits stay the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
_is_transformed: Any = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)
_is_profiled: Any = getattr(torch.autograd, "_profiler_enabled", None)
_KNOWN = None not in (_modes, _is_transformed, _is_profiled)


def is_unwatched(z: Tensor) -> bool:
    """Is autograd the only part of torch that needs to know what is done with ``z``? It is not, if a mode, a
    transformation, a profiler or a tracer looks on. A compiler is not asked for here.
    """
    return (
        _KNOWN
        and not (_modes() or _is_transformed(z) or _is_profiled() or torch.jit.is_tracing())
        and torch.autograd.forward_ad._current_level < 0
    )


def is_transformed(z: Tensor) -> bool:
    """Is ``z`` seen by a transformation of torch.func, or by forward-mode differentiation?"""
    wrapped = _is_transformed is not None and _is_transformed(z)
    return bool(wrapped) or torch.autograd.forward_ad._current_level >= 0
