"""Training steps of the bundled silicon recipe in one and two processes, one thread each.

Usage: python tests/benchmarks/training_scaling.py [--rounds 3]

``strong`` keeps the batch of a step and shares it; ``weak`` gives each process the batch of one. A figure is
the time of eight epochs less that of two, the least of the rounds, so that starting up does not count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[2] / "calculators" / "mlearn-si" / "config.py"
NFF = "import sys; from nfflr.cli.main import run; sys.exit(run(sys.argv[1:]))"
BATCH = 16
EPOCHS = (2, 8)


def seconds(folder: Path, processes: int, batch: int, epochs: int) -> float:
    config = folder / "config.py"
    text = RECIPE.read_text().replace("__file__", repr(str(RECIPE)))
    config.write_text(f"{text}\nepochs = {epochs}\nbatch_size = {batch}\ncompile = False\n")
    command = [sys.executable, "-c", NFF, "train", str(config), "--out", str(folder / "run"), "--overwrite"]
    command += ["--nproc", str(processes)] if processes > 1 else []
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - start


def epoch(processes: int, batch: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        few, many = (seconds(Path(folder), processes, batch, n) for n in EPOCHS)
    return (many - few) / (EPOCHS[1] - EPOCHS[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    cases = {"one": (1, BATCH), "strong": (2, BATCH), "weak": (2, 2 * BATCH)}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(parser.parse_args().rounds):
        for name, case in cases.items():
            times[name].append(epoch(*case))
    best = {name: min(values) for name, values in times.items()}
    print("s an epoch:", {name: round(value, 3) for name, value in best.items()})
    for name in ("strong", "weak"):
        print(f"{name}: two processes are {best['one'] / best[name]:.2f} times as fast as one")


if __name__ == "__main__":
    main()
