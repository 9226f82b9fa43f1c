"""The loop: label, train a committee, judge it, and label the structures on which its members disagree.

Everything follows from structures, settings and seed. The output folder keeps the expensive parts (labels,
trained potentials, the frames of each round), so that a resumed run repeats only cheap ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.io.jsonio import encode
from pydantic import Field

from ..calculator import NFFLrCalculator
from ..checkpoint import load_checkpoint
from ..errors import ConfigError, NumericsError
from ..models.moment import MomentNetwork
from ..storage.archives import StoredFrames, write_trajectory
from ..storage.files import claim_folder
from ..storage.sealed import Record
from ..validation.suite import Suite
from . import DistillSettings
from .sampling import choose, md_frames, rattled, relaxation_frames, seed_structures
from .students import Judgement, describe, judge, train_student
from .teacher import LABELS, Labels, Teacher, label, make_suite, relaxed, supercells_of

DOUBT = 0.5  # of the rms force norm, the largest disagreement of a committee that MD follows
NEAR = 1.5  # times the limits, from where a training of full length may reach them
FRESH = 24  # rattled supercells among the candidates

Tell = Callable[[str], None]
Update = Callable[[int, int, str], None]


class Plan(Record):
    """``plan.json``: the input of a distillation, which a resumed run has to repeat."""

    kind: ClassVar[str] = "the plan.json of nff distill"

    version: int = 2
    teacher: str | None = None
    structures: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)

    def claim(self, path: Path, resume: bool) -> None:
        """Write the plan, or check that it continues the run that was begun there.

        Raises:
            ConfigError: it does not, or ``resume`` is not set.
        """
        if path.exists():
            if not resume:
                raise ConfigError(
                    f"{path.parent}: a distillation was begun here; use --resume, or another --out"
                )
            before = self.read(path)
            pairs = {"model": (before.teacher, self.teacher)}
            pairs |= {name: (before.settings.get(name), value) for name, value in self.settings.items()}
            for name, (old, new) in pairs.items():
                if old != new:
                    raise ConfigError(
                        f"--{name.replace('_', '-')}: is not what the run to resume had ({old!r}); "
                        "give what it began with, or use another --out"
                    )
            if before.structures != self.structures:
                raise ConfigError("structures: are not those of the run to resume; use another --out")
        self.write(path)


def plan_of(teacher: str, cells: Mapping[str, ase.Atoms], settings: DistillSettings) -> Plan:
    """The plan of a distillation."""
    structures = {name: json.loads(encode(atoms.todict())) for name, atoms in cells.items()}
    return Plan(teacher=teacher, structures=structures, settings=settings.model_dump(mode="json"))


@dataclass
class Distillation:
    """One run in its folder.

    Args:
        out: the folder, which this process has locked.
        cells: structures by name.
        calculator: the teacher.
        tell: takes a line about each stage.
        update: takes calls, budget and a text at every step.
    """

    out: Path
    cells: Mapping[str, ase.Atoms]
    calculator: Calculator
    settings: DistillSettings
    tell: Tell = lambda text: None
    update: Update = lambda done, total, text: None
    history: list[Judgement] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        claim_folder(self.out)
        self.started = time.perf_counter()
        self.labels = Labels(self.out / LABELS)
        self.teacher = Teacher(self.calculator, self.labels, self.settings.budget)
        self.supercells: dict[str, ase.Atoms] = {}
        self.suite: Suite | None = None

    def run(self) -> Judgement:
        """Label, train and judge until the limits hold or the budget is spent; returns the last judgement.

        Raises:
            NumericsError: the teacher failed for most of the first structures.
        """
        settings = self.settings
        self._prepare()
        k = 0
        while True:
            committee = self._committee(k)
            self._test(k, committee)
            judgement = self._judge(k, self._best(k))
            spent = len(self.labels) + settings.tests >= settings.budget
            if judgement.good(settings, NEAR) or spent or not self._label_next(k, committee):
                final = self._final(k)
                if final.good(settings) or spent or not self._label_next(k, committee):
                    return final
            k += 1

    def _prepare(self) -> None:
        """Relax, make references, label the seeds."""
        settings = self.settings
        self._say("relaxing and references")
        cells = relaxed(self.cells, self.teacher, settings)
        self.supercells = supercells_of(cells, settings)
        self.suite, self.notes = make_suite(self.out / "suite", cells, self.teacher, settings)
        for name, reason in self.notes.items():
            self.tell(f"no reference {name}: {reason}")
        references = sum(frame.info["use"] == "reference" for frame in self.labels.frames)
        self.tell(f"{references} calls for relaxation and references")

        def seeds() -> list[ase.Atoms]:
            rng = self._rng("seeds", 0)
            return seed_structures(cells, self.supercells, settings.seeds, settings.temperature, rng)

        self._label(self._stored("seeds", seeds), "train")
        if len(self._trainable(0)) < 8:
            raise NumericsError("teacher: it failed for most of the first structures; see labels.traj")

    def _committee(self, k: int) -> NFFLrCalculator:
        """Potentials trained on all labels, with different seeds and splits."""
        settings, frames = self.settings, self._trainable(k)
        for member, folder in enumerate(self._members(k)):
            self._train(folder, frames, member, settings.committee_length * settings.length)
        return NFFLrCalculator.load(self._members(k), compile=settings.compile)

    def _train(self, folder: Path, frames: list[ase.Atoms], member: int, length: float) -> None:
        def on_step(step: dict) -> None:
            if step["step"] % 10 == 0:
                name = f"{folder.parent.name} {folder.name}"
                self._say(f"training {name}, step {step['step']} of {step['total']}")

        settings = self.settings
        train_student(
            folder,
            frames,
            seed=settings.seed + member,
            layers=settings.layers,
            length=length,
            compile=settings.compile,
            on_step=on_step,
        )

    def _best(self, k: int) -> Path:
        """The member with the lowest force error on the validation part of its split."""
        return min(self._members(k), key=lambda p: load_checkpoint(p)[1]["scores"]["val/forces_rmse"])

    def _final(self, k: int) -> Judgement:
        """A potential of full training length, also judged on frames of its own MD."""
        folder = self.out / "rounds" / str(k) / "final"
        self._train(folder, self._trainable(k), 0, self.settings.length)
        self._test(k, NFFLrCalculator.load(folder, compile=self.settings.compile), "final")
        return self._judge(k, folder)

    def _test(self, k: int, student: NFFLrCalculator, who: str = "committee") -> None:
        """Label random frames of a potential's own MD, for tests alone."""
        settings, name = self.settings, f"{k}-test-{who}"

        def draw() -> list[ase.Atoms]:
            rng = self._rng(name, k)
            self._say("MD for the test")
            frames = self._md(student, rng)
            tests = [frames[i] for i in rng.permutation(len(frames))[: settings.tests]]
            for supercell in self.supercells.values() if len(tests) < settings.tests else ():
                tests += rattled(supercell, settings.tests, settings.temperature, rng)  # MD ended early
            return tests[: settings.tests]

        self._label(self._stored(name, draw), "test", reserve=0)

    def _md(self, calculator: NFFLrCalculator, rng: np.random.Generator) -> list[ase.Atoms]:
        """Frames of MD with a potential, or with a committee as long as its members agree."""
        forces = np.concatenate([f.get_forces() for f in self.labels.used_for("train")])  # (atoms, 3)
        limit = DOUBT * float(np.sqrt(np.mean(np.sum(forces**2, axis=1))))  # eV/Å
        settings = self.settings
        return md_frames(self.supercells, calculator, settings.temperature, settings.walk_steps, limit, rng)

    def _label_next(self, k: int, committee: NFFLrCalculator) -> bool:
        """Choose and label a round's structures; False if that gave no new label."""
        frames = self._stored(f"{k}-chosen", lambda: self._choose(k, committee))
        self._label(frames, "train", reserve=self.settings.tests)
        return len(self._trainable(k + 1)) > len(self._trainable(k))

    def _choose(self, k: int, committee: NFFLrCalculator) -> list[ase.Atoms]:
        settings, rng = self.settings, self._rng("chosen", k)
        self._say("exploring")
        frames = self._md(committee, rng)
        frames += relaxation_frames(self.supercells, committee, settings.temperature, rng)
        for supercell in self.supercells.values():
            frames += rattled(supercell, FRESH // len(self.supercells), settings.temperature, rng)
        doubt = np.array([np.max(results["forces_std"]) for results in committee.evaluate(frames)])
        model = cast(MomentNetwork, load_checkpoint(self._best(k))[0])
        labelled = describe(model, self._trainable(k))
        indices = choose(doubt, describe(model, frames), labelled, settings.batch)
        mean = doubt[indices].mean()
        self.tell(f"round {k}: {len(indices)} of {len(frames)} candidates, doubt {mean:.3g} eV/Å")
        return [frames[i] for i in indices]

    def _judge(self, k: int, folder: Path) -> Judgement:
        self._say("phonons and other tasks")
        judgement = judge(folder, self.labels.used_for("test"), self.suite, self.settings.compile)
        seconds = time.perf_counter() - self.started
        judgement = replace(
            judgement, calls=len(self.labels), trained=len(self._trainable(k)), seconds=seconds
        )
        self.history.append(judgement)
        phonons = [f"{n} {v:.3g} THz" for n, v in judgement.row()["suite"].items() if "frequency" in n]
        parts = [f"{judgement.calls} calls", f"force error {judgement.force_error:.2f} %", *phonons]
        self.tell(f"{folder.relative_to(self.out)}: {', '.join(parts)}")
        return judgement

    def _label(self, frames: list[ase.Atoms], use: str, reserve: int | None = None) -> None:
        """Label frames within the budget less ``reserve`` calls; default: the tests of a whole round."""
        reserve = 2 * self.settings.tests if reserve is None else reserve
        for frame in frames:
            label(self.teacher, [frame], use, self.settings.budget - reserve)
            self._say(f"labelling, {use}")

    def _stored(self, name: str, make: Callable[[], list[ase.Atoms]]) -> list[ase.Atoms]:
        """Frames that are made once and read by a resumed run, which then needs the same labels."""
        path = self.out / "rounds" / f"{name}.traj"
        if not path.exists():
            claim_folder(path.parent)
            write_trajectory(path, make())
        return list(StoredFrames(path))

    def _trainable(self, k: int) -> list[ase.Atoms]:
        """Training labels of the seeds and of the rounds before ``k``, in the order of the calls."""
        names = ["seeds", *(f"{j}-chosen" for j in range(k))]
        frames = [f for name in names for f in StoredFrames(self.out / "rounds" / f"{name}.traj")]
        labelled = map(self.labels.find, frames)
        # Labels of references, such as the structure at rest, may be trained on; tests never.
        return [f for f in labelled if f is not None and f.calc is not None and f.info["use"] != "test"]

    def _members(self, k: int) -> list[Path]:
        return [self.out / "rounds" / str(k) / f"member-{m}" for m in range(self.settings.members)]

    def _rng(self, name: str, k: int) -> np.random.Generator:
        """An independent random stream for each purpose."""
        return np.random.default_rng([self.settings.seed, k, *name.encode()])

    def _say(self, text: str) -> None:
        last = f", force error {self.history[-1].force_error:.1f} %" if self.history else ""
        self.update(len(self.labels), self.settings.budget, text + last)
