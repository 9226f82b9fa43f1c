"""Which structures make a step, on which rank, in how many parts."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.dataset import AtomsDataset, collate
from ..errors import ResourceError
from .distributed import share


class ShuffledBatches:
    """Batches of indices in an order that depends on seed and epoch alone, so that a resume repeats it.

    ``size`` counts the structures of all ranks together. Each rank iterates over its share of every batch,
    which is empty where the last one has fewer structures than there are ranks. The first ``skip`` batches
    are left out: a resume in the middle of an epoch has done them.
    """

    def __init__(self, indices: list[int], size: int, seed: int):
        self.indices, self.size, self.seed = np.array(indices), size, seed
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.indices).tolist()
        starts = range(0, len(order), self.size)[self.skip :]
        return iter([share(order[k : k + self.size]) for k in starts])


def collate_parts(items: list, parts: int) -> list:
    """A batch as up to ``parts`` collated pieces of nearly equal size; none if there are no items."""
    sizes = [len(piece) for piece in np.array_split(np.arange(len(items)), parts)]
    ends = np.cumsum(sizes)
    return [collate(items[end - n : end]) for end, n in zip(ends, sizes, strict=True) if n]


def make_loader(dataset: AtomsDataset, batches: ShuffledBatches, parts: int, workers: int) -> DataLoader:
    """The loader of a run; its workers stay, as they keep the graphs they have built."""
    workers = min(workers, len(os.sched_getaffinity(0)))  # more than there are cores would only wait
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(collate_parts, parts=parts),
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(batches.seed),  # not the caller's
        worker_init_fn=_leave_interrupts,
    )


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C goes to every process: the run ends after its step, which may need batches, and then these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def watched_workers() -> Iterator[None]:
    """Say in a line that a process that prepares batches died.

    To stand outside of all that cleans up: torch tells of it by a signal, which may come while another error
    of the same cause is on its way.

    Raises:
        ResourceError: one did.
    """
    try:
        yield
    except (RuntimeError, EOFError) as error:  # torch has no class of its own for it
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        reason = str(error).partition(". ")[0].rstrip(".") or "in the middle of a batch"
        raise ResourceError(
            f"num_workers: a process that prepares batches died ({reason}); "
            "check the memory, or set num_workers = 0; continue with --resume"
        ) from error
