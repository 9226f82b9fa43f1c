"""What the learning rate that ``nff lr`` suggests is worth beside the default one.

Usage: python tests/benchmarks/learning_rates.py [mlearn-cu mlearn-li mlearn-si ethanol]

Trains the recipe of each bundled potential with both, and prints the least loss on the validation split with
the force error of that epoch.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

from nfflr.train.config import TrainingConfig, load_config
from nfflr.train.learning_rate_finder import find_learning_rate
from nfflr.train.trainer import train

HOME = Path(__file__).resolve().parents[2] / "calculators"
NAMES = ("mlearn-cu", "mlearn-li", "mlearn-si", "ethanol")


def recipe(name: str, **changes) -> TrainingConfig:
    return load_config(HOME / name / "config.py", {"progress": False, **changes})


def least(name: str, rate: float) -> dict[str, float]:
    """The row of metrics with the least validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        train(recipe(name, learning_rate=rate, output_dir=Path(folder) / "run"))
        with open(Path(folder) / "run" / "metrics.csv") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return min(rows, key=lambda row: row["val/loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    print("potential | learning rate | | validation loss | force MAE (meV/Å)")
    for name in parser.parse_args().names:
        rates = {
            "default": recipe(name).learning_rate,
            "suggested": find_learning_rate(recipe(name)).suggestion,
        }
        for kind, rate in rates.items():
            row = least(name, rate)
            cells = [f"{rate:.3g}", kind, f"{row['val/loss']:.4g}", f"{1000 * row['val/forces_mae']:.2f}"]
            print(name, *cells, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
