"""What the machine can do: 16-bit arithmetic, threads, memory that is kept."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

import torch


@functools.cache
def half_precision(device: torch.device) -> bool:
    """Whether bfloat16 is fast on this device: GPUs that have it, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def prepare_cpu() -> None:
    """Use the cores this process may use, and keep freed memory for the next step.

    glibc gives large blocks back at once and fetches them page by page at the next step, which costs
    a training step on the CPU up to a fifth of its time.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 4)
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
        except OSError:  # another C library
            return
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
