"""The same conditions for every contestant: allocator, thread, turns. Import it before numpy and torch."""

import os
import statistics
import sys

KEEP_MEMORY = {  # freed memory stays with the process, which costs some packages half of their time otherwise
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
}
if any(os.environ.get(name) != value for name, value in KEEP_MEMORY.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_MEMORY})


def in_turn(steps, rounds):
    """Median of what each step returns (its cost), the steps taking turns.

    Of two calls in a row the second counts: as in a run, the caches hold this step's data and no other's.
    """
    for step in steps.values():
        step()  # warm up

    def second(step):
        step()
        return step()

    found = [{name: second(step) for name, step in steps.items()} for _ in range(rounds)]
    return {name: statistics.median(costs[name] for costs in found) for name in steps}
