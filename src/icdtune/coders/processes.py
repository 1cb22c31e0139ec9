"""Several processes that train one coder (`accelerate launch`): who writes, and who waits.

All of them run the same command. The first writes the coder's folder; the others wait for it.
"""

from __future__ import annotations

import os

from icdtune.errors import IcdtuneError


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def wait() -> None:
    """Return when every process is here."""
    if count() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def share(batch: int, name: str = "batch") -> int:
    """A process's part of a batch; IcdtuneError where it cannot be shared out evenly."""
    if batch % count():
        raise IcdtuneError(
            f"{name} is {batch}, which {count()} processes cannot share evenly. Choose a multiple of "
            f"{count()}"
        )
    return batch // count()
