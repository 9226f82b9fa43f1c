"""``nff bench`` as typed: what it writes, what it refuses, and that it changes nothing in what it times."""

import json
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator

from nfflr.calculator import NFFLrCalculator
from nfflr.cli.bench import Stopwatch
from nfflr.cli.main import run
from nfflr.validation.speed import Contestant, Timing, measure_speed, plot_speed, ratios

EMT = "ase:ase.calculators.emt:EMT"
QUICK = ["--sizes", "8", "--sizes", "64", "--rounds", "2"]


def bench(tmp_path, *arguments):
    return run(["bench", "--model", "mlearn-si-fast", *QUICK, *arguments, "--out", str(tmp_path)])


def test_the_record_has_every_calculator_at_every_size(capsys, tmp_path):
    lennard_jones = 'ase:ase.calculators.lj:LennardJones:{"sigma": 2.0, "rc": 5.0}'
    assert bench(tmp_path, "--against", "mlearn-si-fast", "--against", lennard_jones) == 0
    record = json.loads((tmp_path / "mlearn-si-fast-bench.json").read_text())
    names = ["mlearn-si-fast", "mlearn-si-fast (2)", "lennardjones"]
    assert [(row["atoms"], row["calculator"]) for row in record["timings"]] == [
        (n, name) for n in (8, 64) for name in names
    ]
    assert (
        sorted(record["calculators"]) == sorted(names) and record["calculators"]["mlearn-si-fast"]["digest"]
    )
    for row in record["timings"]:
        assert row["time_ms"] > 0 and row["per_atom_us"] == pytest.approx(1e3 * row["time_ms"] / row["atoms"])
        assert row["processor_per_atom_us"] == pytest.approx(1e3 * row["processor_ms"] / row["atoms"])
        assert (row["ratio"] is None) == (row["calculator"] == "mlearn-si-fast")
        parts = [] if row["calculator"] == "lennardjones" else ["ase", "model", "neighbours"]
        assert sorted(row["split_ms"]) == parts and all(v >= 0 for v in row["split_ms"].values())
    assert (tmp_path / "mlearn-si-fast-bench.png").stat().st_size > 10_000
    assert "µs/atom" in capsys.readouterr().out
    assert bench(tmp_path) == 2 and "--overwrite" in capsys.readouterr().err


def test_a_training_config_is_timed_too(tmp_path, capsys):
    config = Path(__file__).parents[2] / "calculators" / "mlearn-si" / "config.py"
    assert bench(tmp_path, "--config", str(config)) == 0
    found = json.loads((tmp_path / "mlearn-si-fast-bench.json").read_text())["training"]
    assert found["atoms_per_s"] == pytest.approx(1e3 * found["atoms_per_step"] / found["step_ms"], rel=0.5)
    assert 8 < found["atoms_per_step"] <= 8 * 64 and "atoms/s" in capsys.readouterr().out


def test_a_calculator_that_fails_says_why_and_the_others_go_on(tmp_path):
    assert bench(tmp_path, "--against", EMT) == 0
    rows = json.loads((tmp_path / "mlearn-si-fast-bench.json").read_text())["timings"]
    failed = [row for row in rows if row["calculator"] == "emt"]
    assert all("NotImplementedError" in row["message"] and row["time_ms"] is None for row in failed)
    assert all(row["time_ms"] for row in rows if row["calculator"] == "mlearn-si-fast")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mlearn-si-fast", "--element", "Cu"], "Cu is not covered"),
        (["mlearn-si-fast", "--against", "ase:ase.calculators.emt:Nothing"], "Nothing"),
        ([EMT], "--element"),
    ],
)
def test_refusals_are_one_line(arguments, said, capsys, tmp_path):
    assert run(["bench", "--model", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert any(one in error for one in said.split("|")) and "\n" not in error
    assert not list(tmp_path.iterdir())


class Sleeper(Calculator):
    """Counts evaluations and keeps the positions it was given."""

    implemented_properties = ("energy", "forces")

    def __init__(self):
        super().__init__()
        self.seen = []

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.seen.append(atoms.positions.copy())
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


def test_calculators_take_turns_on_the_same_moves_and_each_call_is_one_evaluation():
    one, other, atoms = Sleeper(), Sleeper(), bulk("Cu", cubic=True)
    start = atoms.positions.copy()
    timings = measure_speed([Contestant("one", one), Contestant("other", other)], [atoms], rounds=3)
    assert len(one.seen) == len(other.seen) == 5  # two of them do not count
    assert np.array_equal(one.seen, other.seen) and not np.array_equal(one.seen[0], one.seen[1])
    assert np.array_equal(atoms.positions, start)
    assert [len(t.seconds) for t in timings] == [3, 3] and list(ratios(timings)) == [("other", 4)]
    assert len(plot_speed(timings).axes) == 2


def test_ratios_are_of_the_same_round():
    timings = measure_speed([Contestant(n, Sleeper()) for n in "ab"], [bulk("Cu")], rounds=3)
    timings[0].processor, timings[1].processor = [1.0, 10.0, 2.0], [3.0, 30.0, 4.0]
    assert ratios(timings) == {("b", 1): 3.0}


@pytest.mark.parametrize("compiled", [False, True])
def test_the_stopwatch_leaves_results_alone(compiled):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.05, seed=1)
    expected = NFFLrCalculator.load("mlearn-si-fast").get_property("forces", atoms)
    calculator = NFFLrCalculator.load("mlearn-si-fast")
    if compiled:  # the model itself stands in: what matters is that the calculator calls it
        calculator._compile, calculator._compiled = True, calculator.model
    watch = Stopwatch(calculator)
    assert watch() == {"neighbours": 0.0, "model": 0.0}
    assert np.array_equal(calculator.get_property("forces", atoms), expected)
    assert all(seconds > 0 for seconds in watch().values())


def test_waiting_costs_no_processor_time():
    class Slow(Calculator):
        """Waits for 30 ms, as for another job's turn on a busy processor."""

        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=()):
            super().calculate(atoms, properties, system_changes)
            time.sleep(0.03)
            self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}

    (timing,) = measure_speed([Contestant("slow", Slow())], [bulk("Si")], rounds=2)
    assert timing.milliseconds > 30 > 10 > timing.processor_milliseconds > 0


def test_ratios_are_of_processor_times():
    first = Timing("a", 8, seconds=[1.0, 5.0], processor=[0.1, 0.1])
    second = Timing("b", 8, seconds=[2.0, 2.0], processor=[0.3, 0.3])
    assert ratios([first, second]) == {("b", 8): pytest.approx(3)}
    assert ratios([first, second], processor=False) == {("b", 8): pytest.approx(1.2)}


def test_a_structure_that_the_model_does_not_cover_is_refused(tmp_path):
    ase.io.write(tmp_path / "cu.cif", bulk("Cu"))
    fails = ["bench", str(tmp_path / "cu.cif"), "--model", "mlearn-si-fast", "--out", str(tmp_path / "out")]
    assert run(fails) == 3
    assert not (tmp_path / "out").exists()
