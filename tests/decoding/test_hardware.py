"""The process uses the cores it may use, unless it was told how many."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CHILD = """
import torch
from icdtune.decoding.hardware import half_precision, prepare_cpu
prepare_cpu()
assert half_precision(torch.device("meta")) is False
blocks = [torch.ones(1 << 20) for _ in range(4)]  # memory still works after mallopt
print(torch.get_num_threads(), int(sum(map(torch.sum, blocks)).item()) >> 20)
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
    assert found.stdout.split() == [str(expected), "4"]
