"""What the machine can do: GPU, 16-bit arithmetic, threads, memory that is kept while training."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def best_device() -> torch.device:
    """This process's GPU where there is one, else the CPU; CUDA_VISIBLE_DEVICES= hides GPUs.

    On a GPU, cuDNN's attention is switched off: since torch 2.11 its backward pass gives NaN where a
    mask is given and tokens modulo 128 are 64 (pytorch issue 196678; seen here with padded rows).
    """
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def batch_tokens(device: torch.device) -> int:
    """Tokens of prompts and answers that a batch holds unless a coder says otherwise."""
    return 131_072 if device.type == "cuda" else 24_576


@functools.cache
def half_precision(device: torch.device) -> bool:
    """Whether bfloat16 is fast on this device: GPUs that have it, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def use_cores() -> None:
    """Use the cores this process may use; OMP_NUM_THREADS, where it is set, rules."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 4)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for the next training step, and give it back at the end.

    glibc gives large blocks back at once and fetches them page by page at the next step, which costs
    a training step on the CPU up to a fifth of its time. Where blocks differ from step to step, as in
    prediction, what is kept would only pile up.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)  # no block of its own
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, 65_536)  # glibc's defaults
        libc.mallopt(_TRIM_THRESHOLD, 128 * 1024)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:  # another C library
        return None
