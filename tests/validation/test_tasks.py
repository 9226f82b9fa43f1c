"""Tasks: failures keep their place, numbers do not depend on the past, time runs out in order."""

import math
import time

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from lennard_jones import LennardJones, argon

from nfflr.calculator import NFFLrCalculator
from nfflr.errors import ConfigError, NumericsError, ResourceError
from nfflr.validation.suite import Suite, Task
from nfflr.workflows.framework.contract import find_workflow


def task(name="relaxed", workflow="relax", atoms=None, reference=None, **options):
    """A relaxation of copper unless something else is asked for; settings are what else is given."""
    kept = {k: options.pop(k) for k in ("limits", "score_names") if k in options}
    found = find_workflow(workflow)
    structures = atoms if isinstance(atoms, tuple) else (bulk("Cu", a=3.7) if atoms is None else atoms,)
    if isinstance(reference, dict):
        reference = found.result.model_construct(**reference)
    return Task(name, found, structures, found.settings(**options), reference, **kept)


REFERENCE = {"energy": 0.0, "volume": 11.8}
HOT = {"ensemble": "nve", "temperature": 60, "timestep": 4, "steps": 80, "interval": 2}


class Wrong(EMT):
    """Does something else from the ``after``-th call on."""

    def __init__(self, action, after=0):
        super().__init__()
        self.action, self.after, self.calls = action, after, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls > self.after:
            self.action(self)


def breaks(error):
    def action(calculator):
        raise error

    return action


def gives_nan(calculator):
    calculator.results["forces"] = np.full_like(calculator.results["forces"], np.nan)
    calculator.results["stress"] = np.full(6, np.nan)
    calculator.results["energy"] = np.nan


class Repulsive(LennardJones):
    """Argon that flies apart after some calls."""

    calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls > 40:
            self.results["forces"] = self.results["forces"] * 1e6


# What a task measures


def test_scores_are_those_of_the_workflow_called_directly():
    one = task(reference=REFERENCE, cell=True)
    outcome = one.run(EMT())
    result = one.workflow.function(bulk("Cu", a=3.7), EMT(), one.settings)
    assert outcome.status == "scored" and outcome.coverage == 1 and outcome.converged
    expected = {"energy_error": abs(result.energy), "volume_error": 100 * abs(result.volume / 11.8 - 1)}
    assert outcome.scores == pytest.approx(expected)
    assert outcome.units == {"energy_error": "eV", "volume_error": "%"}
    assert outcome.seconds > 0 and outcome.message.startswith("converged")


def test_scores_can_be_chosen_and_limited():
    one = task(reference=REFERENCE, cell=True, score_names=("volume_error",), limits={"volume_error": 0.5})
    outcome = one.run(EMT())
    assert list(outcome.scores) == ["volume_error"]
    found = outcome.scores["volume_error"]
    assert outcome.exceeded == (("volume_error",) if found > 0.5 else ())
    assert found < 5  # EMT is that close to 11.8 Å^3
    strict = task(reference=REFERENCE, cell=True, limits={"volume_error": found * 0.999})
    equal = task(reference=REFERENCE, cell=True, limits={"volume_error": found})
    assert strict.run(EMT()).exceeded == ("volume_error",) and equal.run(EMT()).exceeded == ()


@pytest.mark.parametrize(
    "options, reason",
    [
        (
            {"reference": REFERENCE, "limits": {"volume_eror": 1}},
            "no score 'volume_eror'.*mean 'volume_error'",
        ),
        ({"reference": REFERENCE, "score_names": ("position_rmsd",)}, "no score 'position_rmsd' with this"),
        ({}, "nothing to score; give a reference"),
        (
            {"reference": REFERENCE, "score_names": ("energy_error",), "limits": {"volume_error": 1}},
            "not among",
        ),
    ],
)
def test_tasks_that_could_measure_nothing_are_refused(options, reason):
    with pytest.raises(ConfigError, match=f"task relaxed: .*{reason}"):
        task(**options)


def test_a_path_between_two_structures_is_a_task():
    final = bulk("Cu", cubic=True).repeat((2, 1, 1))
    start = final.copy()
    del final[0], start[1]
    # A vacancy and a neighbour that fills it: atom lists in the same order of sites otherwise.
    positions = start.positions.copy()
    end = start.copy()
    full = bulk("Cu", cubic=True).repeat((2, 1, 1)).positions
    end.positions[0] = full[1]
    assert not np.allclose(positions, end.positions)
    reference = {"barrier": 0.5}
    settings = {"images": 1, "climb": False, "fmax": 0.2, "steps": 60}
    path = task("hop", "neb", (start, end), reference, **settings)
    outcome = path.run(EMT())
    assert outcome.status == "scored", outcome.message
    direct = path.workflow.function(start, end, EMT(), path.settings)
    assert outcome.scores == {"barrier_error": pytest.approx(abs(direct.barrier - 0.5))}


# Failure is a result


@pytest.mark.parametrize(
    "calculator, reason",
    [
        (lambda: Wrong(breaks(ValueError("singular\nmatrix"))), "ValueError: singular matrix"),
        (lambda: Wrong(breaks(np.linalg.LinAlgError("no"))), "LinAlgError: no"),
        (lambda: Wrong(breaks(NumericsError("energy: not finite"))), "energy: not finite"),
        (lambda: Wrong(breaks(RuntimeError("later")), after=2), "RuntimeError: later"),
        (lambda: Wrong(gives_nan), "not finite"),
        (lambda: Wrong(gives_nan, after=2), "not finite"),
        (lambda: NFFLrCalculator.load("mlearn-si-fast"), "Cu"),
    ],
)
def test_whatever_breaks_keeps_its_place_with_infinite_scores(calculator, reason):
    outcome = task(reference=REFERENCE, cell=True, limits={"energy_error": 1e9}).run(calculator())
    assert outcome.status == "failed" and outcome.failed and outcome.coverage == 0
    assert outcome.scores == {"energy_error": math.inf, "volume_error": math.inf}
    assert outcome.exceeded == ("energy_error",)
    assert reason in outcome.message and "\n" not in outcome.message
    assert outcome.record()["scores"] == {"energy_error": None, "volume_error": None}


def test_what_does_not_converge_fails_though_it_has_a_result():
    outcome = task(reference=REFERENCE, cell=True, steps=1).run(EMT())
    assert outcome.failed and not outcome.converged and outcome.result.steps == 1
    assert set(outcome.scores.values()) == {math.inf} and "raise --steps" in outcome.message


def test_an_exploding_run_says_how_far_it_came_and_has_no_other_score():
    good = task("hot", "md", argon(), **HOT)
    assert list(good.scores) == ["lost_fraction", "drift"]
    outcome = good.run(LennardJones())
    assert outcome.status == "scored" and outcome.scores["lost_fraction"] == 0
    outcome = good.run(Repulsive())
    assert outcome.failed and outcome.result.verdict == "exploded" and outcome.scores["drift"] == math.inf
    assert 0.4 < outcome.scores["lost_fraction"] < 0.6  # after 40 of 80 steps
    assert outcome.scores["lost_fraction"] == pytest.approx(1 - outcome.result.steps / 80)


def test_a_score_that_cannot_be_taken_fails_the_task():
    reference = {"positions": np.zeros((1, 3)), "cell": np.eye(3), "symbols": ["Au"]}
    outcome = task(reference=reference).run(EMT())
    assert outcome.failed and outcome.converged and "other atoms" in outcome.message
    assert outcome.scores == {"length_mae": math.inf, "position_rmsd": math.inf}


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError("disk"), ResourceError("x: disk full"), KeyboardInterrupt()]
)
def test_a_lack_of_resources_is_no_verdict_on_a_calculator(error):
    with pytest.raises(type(error)):
        task(reference=REFERENCE).run(Wrong(breaks(error)))


# Numbers depend on the calculator alone


def suite():
    silicon = bulk("Si", a=5.45, cubic=True)
    rattled = silicon.copy()
    rattled.rattle(0.05, seed=1)
    cold = {"temperature": 300, "steps": 40, "interval": 1, "timestep": 2}
    return Suite(
        (
            task("relaxed", atoms=rattled, reference={"energy": -43.0}, fmax=0.05),
            task("hot", "md", silicon, **cold),
            task("curve", "eos", silicon, {"bulk_modulus": 88.0}),
            task("constants", "elastic", silicon, {"clamped": np.eye(6)}, internal=False, points=2),
        )
    )


@pytest.fixture(scope="module")
def expected():
    return suite().run(NFFLrCalculator.load("mlearn-si-fast")).scores()


def test_numbers_do_not_depend_on_what_was_run_before(expected):
    assert expected["coverage"] == 1 and expected["skipped"] == 0
    whole = suite()
    calculator = NFFLrCalculator.load("mlearn-si-fast")
    backwards = Suite(whole.tasks[::-1]).run(calculator).scores()
    assert backwards == expected  # to the last bit
    assert whole.run(calculator).scores() == expected
    calculator.get_potential_energy(bulk("Si").repeat(3))
    for one in whole.tasks:
        alone = whole.only((one.name,)).run(calculator).scores()
        assert alone.items() - {("coverage", 1.0), ("skipped", 0.0)} <= expected.items()


def test_numbers_do_not_depend_on_the_global_random_state(expected):
    state = np.random.get_state()
    np.random.seed(99)
    found = suite().run(NFFLrCalculator.load("mlearn-si-fast")).scores()
    np.random.set_state(state)
    assert found == expected


def test_structures_and_references_are_left_as_they_were():
    one = task(reference=REFERENCE, cell=True)
    before = one.structures[0].copy()
    one.run(EMT())
    assert one.structures[0] == before and one.structures[0].calc is None


# Suites


def test_failures_and_skips_count_in_coverage_and_never_change_the_keys():
    tasks = (task("one", reference=REFERENCE), task("two", reference=REFERENCE, cell=True))
    good = Suite(tasks).run(EMT())
    bad = Suite(tasks).run(Wrong(breaks(RuntimeError("no")), after=3))
    none = Suite(tasks).run(EMT(), budget_s=0)
    assert good.scores().keys() == bad.scores().keys() == none.scores().keys()
    assert (good.coverage, bad.coverage, none.coverage) == (1, 0.5, 0)
    assert good.passed and not bad.passed and not none.passed
    assert [o.status for o in bad.outcomes] == ["scored", "failed"]
    assert bad.scores()["two/failed"] == 1 and bad.scores()["two/volume_error"] == math.inf
    assert none.scores()["two/failed"] == 0 and none.scores()["skipped"] == 2
    assert good.units() == {
        f"{n}/{s}": u for n in ("one", "two") for s, u in tasks[0].run(EMT()).units.items()
    }


class Slow(EMT):
    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        time.sleep(0.03)


def test_a_budget_breaks_off_a_task_and_begins_no_other():
    begun = []
    slow = task("slow", reference=REFERENCE, atoms=bulk("Cu", a=3.9), cell=True, fmax=1e-9, steps=10**4)
    tasks = (task("quick", reference=REFERENCE), slow, task("never", reference=REFERENCE))
    started = time.perf_counter()
    report = Suite(tasks).run(Slow(), budget_s=0.8, begin=lambda t: begun.append(t.name))
    assert time.perf_counter() - started < 5
    assert [o.status for o in report.outcomes] == ["scored", "skipped", "skipped"]
    assert begun == ["quick", "slow"]
    assert report.outcomes[1].message == "broken off: the budget of 0.8 s was spent"
    assert report.outcomes[2].message == "not begun: the budget of 0.8 s was spent"
    assert report.coverage == pytest.approx(1 / 3) and report.scores()["skipped"] == 2
    assert report.scores()["quick/energy_error"] == Suite(tasks[:1]).run(EMT()).scores()["quick/energy_error"]


def test_progress_reaches_the_caller():
    seen = []
    Suite((task(reference=REFERENCE, cell=True),)).run(EMT(), lambda *a: seen.append(a[2]))
    assert seen and all("fmax (eV/Å)" in numbers for numbers in seen)


def test_suites_need_tasks_with_names_of_their_own():
    with pytest.raises(ConfigError, match="has no task"):
        Suite((), "empty")
    with pytest.raises(ConfigError, match="two tasks are called 'a'"):
        Suite((task("a", reference=REFERENCE), task("a", reference=REFERENCE)), "twins")
    whole = Suite((task("phonon", reference=REFERENCE),), "mine")
    with pytest.raises(ConfigError, match="suite mine: has no task 'phonons'; did you mean 'phonon'"):
        whole.only(("phonons",))
    assert whole.only(()) == whole


def test_an_ase_calculator_without_a_reset_will_do():
    class Bare(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            self.results = {"energy": -1.0, "forces": np.zeros((len(atoms), 3))}

    assert task(reference={"energy": 0.5}).run(Bare()).scores == {"energy_error": 1.5}
