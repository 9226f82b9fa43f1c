"""Kill a training at random instants and see that nothing is lost.

    python tests/torture/kill_train.py --kills 200

Each time a training of a second is killed by SIGKILL, sometimes at a random instant, mostly inside a random
one of the calls that change files, so in the middle of a save. Then it is resumed (or, where no state had
been saved, begun again) and its files are compared with those of a training that was left alone: weights,
metrics and states to the byte. A state is lost if the newest that can be read is older than the last that was
saved.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]  # run as a script, where pytest does not say where tests lie

import numpy as np
from processes import KILL, Ended, Fault, Processes, contents, failing_disk
from small_training import write_config

from nfflr.errors import CheckpointError
from nfflr.train.state import KEEP, newest_state, read_state, states

EPOCHS = 20


@dataclass
class Tally:
    """What became of the kills."""

    kills: int = 0
    inside: int = 0  # in a call that changes files
    mid_epoch: int = 0  # resumed from the middle of an epoch
    identical: int = 0
    lost: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.identical} resumes bit-identical, {self.lost} states lost "
            f"({self.inside} of the kills inside a file operation, {self.mid_epoch} resumed in mid-epoch)"
        )


def kill_many(kills: int, seed: int = 0, say=lambda text: None) -> Tally:
    """Kill a training that often."""
    rng, tally, folder = np.random.default_rng(seed), Tally(), Path(tempfile.mkdtemp())
    config = write_config(folder, EPOCHS)
    with Processes() as processes:
        whole, out = folder / "whole", folder / "run"
        begun = time.perf_counter()
        done = processes.run("train", config, "--out", whole, fault=Fault(folder))
        length = time.perf_counter() - begun
        assert done.code == 0, done.stderr
        while tally.kills < kills:
            inside = failing_disk() is not None and rng.random() < 0.6
            if inside:
                n = int(rng.integers(1, sum(done.calls.values()) + 1))
                ended = processes.run("train", config, "--out", out, fault=Fault(folder, n, KILL))
            else:
                ended = processes.start("train", config, "--out", out).kill_after(rng.uniform(0, length))
            if ended.code == 0:  # it ended first
                shutil.rmtree(out)
                continue
            assert ended.code == -9, ended
            tally.kills, tally.inside = tally.kills + 1, tally.inside + inside
            tally.lost += is_lost(out, ended)
            found = newest_state(out / "state")
            tally.mid_epoch += found is not None and found[1]["step"] % 3 != 0
            finished = processes.run(
                "train", config, "--out", out, *(["--resume"] if found else restart(out))
            )
            assert finished.code == 0, finished.stderr
            tally.identical += contents(out) == contents(whole)
            shutil.rmtree(out)
            if tally.kills % 20 == 0:
                say(str(tally))
    shutil.rmtree(folder)
    return tally


def is_lost(out: Path, ended: Ended) -> bool:
    """Whether a state that had been saved cannot be read: one of those kept, or the last one told."""
    told = [int(epoch) for epoch in re.findall(r"^epoch +(\d+)", ended.stdout, re.MULTILINE)]
    for state in states(out / "state")[-KEEP:]:  # one that is older was being removed
        try:
            read_state(state)
        except CheckpointError:
            return True
    newest = newest_state(out / "state")
    return bool(told) and (newest is None or newest[1]["epoch"] < told[-1])


def restart(out: Path) -> list[str]:
    """Options to begin again where no state had been saved."""
    return ["--overwrite"] if (out / "model.safetensors").exists() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tally = kill_many(given.kills, given.seed, lambda text: print(text, file=sys.stderr, flush=True))
    print(f"{tally.kills} kills, {tally.identical} resumes bit-identical, {tally.lost} states lost")
    print(tally)
    sys.exit(tally.identical != tally.kills or tally.lost > 0)
