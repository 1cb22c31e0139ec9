"""The process uses the cores it may use, unless told how many; memory kept in training is given back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CHILD = """
import torch
from icdtune.decoding.hardware import half_precision, use_cores
use_cores()
assert half_precision(torch.device("meta")) is False
print(torch.get_num_threads())
"""
RESIDENT = """
import torch
from icdtune.decoding.hardware import kept_memory
def resident():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS")) // 1024
torch.ones(1)
before = resident()
with kept_memory():
    for _ in range(3):
        blocks = [torch.ones(1 << 22) for _ in range(16)]  # 256 MiB
        del blocks
    inside = resident()
print(inside - before, resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
@pytest.mark.parametrize("asked", ["1", None])
def test_threads_are_those_of_the_environment_else_one_a_core(asked: str | None) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if asked:
        environment["OMP_NUM_THREADS"] = asked
    found = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True
    )
    expected = int(asked) if asked else len(os.sched_getaffinity(0))
    assert found.stdout.split() == [str(expected)]


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's"
)
def test_memory_kept_in_training_is_given_back_after_it() -> None:
    found = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    inside, after = map(int, found.stdout.split())
    assert inside > 200  # MiB
    assert after < 50
