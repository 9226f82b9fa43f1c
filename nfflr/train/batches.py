"""Which structures make a step, on which rank, in how many parts."""

from __future__ import annotations

import heapq
import math
import os
import signal
from collections.abc import Iterator, Sequence
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

    Each rank iterates over its share of every batch, which is empty where a batch has fewer structures than
    there are ranks. The first ``skip`` batches are left out: a resume in the middle of an epoch has done
    them.

    Args:
        indices, size, seed: the structures, how many make a batch, and the seed of the order.
        sizes, atoms: atoms of each structure and of a batch, if batches are to be of equal numbers of atoms.
    """

    def __init__(self, indices: list[int], size: int, seed: int, sizes: Sequence[int] = (), atoms: int = 0):
        self.indices, self.size, self.seed = np.array(indices), size, seed
        self.sizes = np.array(sizes) if atoms else None
        ratio = sum(sizes) / atoms if atoms else len(indices) / size
        self.count = min(math.ceil(ratio), len(indices))
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.indices))
        if self.sizes is None:
            parts = [order[k : k + self.size] for k in range(0, len(order), self.size)]
        else:
            parts = [order[part] for part in even_parts(self.sizes[order].tolist(), self.count)]
        return iter([share(self.indices[part].tolist()) for part in parts[self.skip :]])


def even_parts(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Positions of items in ``count`` parts of nearly equal total size, in order within each.

    Every item goes to the part that has least so far (Graham's list scheduling, SIAM J. Appl. Math. 17, 416
    (1969)).
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, k) for k in range(count)]
    for position, size in enumerate(sizes):
        total, k = heapq.heappop(filled)
        parts[k].append(position)
        heapq.heappush(filled, (total + size, k))
    return parts


def collate_parts(items: list, parts: int) -> list:
    """A batch as up to ``parts`` collated pieces, nearly even in atoms; none if there are no items."""
    sizes = [int(labels["n_atoms"]) for _, labels in items]
    return [collate([items[k] for k in piece]) for piece in even_parts(sizes, min(parts, len(items)))]


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
    """Raise ResourceError, in one line, if a process that prepares batches dies.

    It stands outside of all that cleans up: torch reports the death by a signal, which may come while another
    error of the same cause is on its way.
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
