"""One forward of a stochastic ReLU and of a plain one on a GPU: what the host spends, what the device spends.

    python results/benchmarks/2026-11-26-h200/one_forward.py
"""

from __future__ import annotations

import time

import torch
from torch.profiler import ProfilerActivity, profile

from circa_train import TruncatedSign
from circa_train.nn import StochasticReLU

SHAPE, TIMED, PROFILED = (128, 64, 32, 32), 100, 20

for dtype in (torch.float32, torch.bfloat16):
    z = torch.randn(SHAPE, device="cuda", dtype=dtype)
    layers = (StochasticReLU(TruncatedSign(12)).cuda(), torch.nn.ReLU())
    for layer in layers:
        for _ in range(5):
            layer(z)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(TIMED):
            layer(z)
        host = time.perf_counter() - started
        torch.cuda.synchronize()
        everything = time.perf_counter() - started
        print(f"{dtype} {type(layer).__name__}: host {1e6 * host / TIMED:.1f} us, with the device "
              f"{1e6 * everything / TIMED:.1f} us")  # fmt: skip
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        for _ in range(PROFILED):
            for layer in layers:
                layer(z)
        torch.cuda.synchronize()
    print(seen.key_averages().table(sort_by="cuda_time_total", row_limit=12, max_name_column_width=40))
