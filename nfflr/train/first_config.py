"""A first training config for data that have been looked at: every choice with its reason beside it."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import numpy as np

from ..data import sources
from ..data.dataset import DatasetConfig
from ..data.quality import Finding
from ..data.quality.diagnosis import Diagnosis
from ..data.quality.survey import Survey

SHELLS = 1.85  # cutoff over nearest-neighbour distance: three shells of bcc and fcc, two of diamond
CUTOFFS = (5.0, 8.0)  # Å; less misses non-bonded neighbours, more costs as its cube
ATOMS_PER_BATCH = 256
UPDATES, EPOCHS = 8000, (30, 500)  # steps and epochs of crystals, as of the bundled potentials
MOLECULES, MOST_EPOCHS = 80_000, 1500  # of molecules, whose labels have little noise
OWN_WEIGHTS = 8  # elements; with more, they share weights
LAYERS = {
    1: "strictly local; 2 costs about ten times as much and has errors about a quarter smaller",
    2: "neighbours exchange tensors; 1 costs about a tenth and has errors about a third larger",
}
MOST = 0.5  # share of cells that are short from which that is said


@dataclass(frozen=True)
class Choices:
    """What the data decide, each explained by the config's comments."""

    cutoff: float  # Å
    layers: int
    n_val: int
    n_train: int
    batch_size: int
    epochs: int
    target: str
    stress: bool


def choose(survey: Survey, left_out: int = 0, layers: int | None = None) -> Choices:
    """Settings for data of this size, density and labelling.

    Args:
        survey: of the data.
        left_out: how many structures will not be used.
        layers: default: two where there are forces, of which messages learn most; else one.
    """
    count = len(survey) - left_out
    share = 0.2 if count < 100 else 0.1 if count < 10_000 else 0.05
    n_val = max(1, round(share * count))
    n_train = count - n_val
    by_atoms = ATOMS_PER_BATCH / float(np.median(survey.sizes))
    by_count = n_train / 8  # so that an epoch has some steps
    molecules = bool(np.isinf(np.median(survey.heights)))
    batch = 2 ** int(np.log2(np.clip(min(by_atoms, by_count), 1, 8 if molecules else 16)))
    updates, (least, most) = (MOLECULES, (30, MOST_EPOCHS)) if molecules else (UPDATES, EPOCHS)
    epochs = int(np.clip(updates * batch / n_train, least, most))
    forces = bool(survey.labels.get("forces"))
    return Choices(
        cutoff=choose_cutoff(survey),
        layers=layers or (2 if forces else 1),
        n_val=n_val,
        n_train=n_train,
        batch_size=batch,
        epochs=round(epochs, -1),
        target="energy_and_forces" if forces else "total_energy",
        stress=forces and bool(survey.labels.get("stress")),
    )


def choose_cutoff(survey: Survey) -> float:
    """``SHELLS`` times the largest spacing (Å), or half the height of most cells if less, in ``CUTOFFS``.

    More neighbours are fitted too closely where data are few: of a bcc metal with 175 structures the errors
    of forces rose by 8 % from 5.0 to 5.9 Å, with one layer.
    """
    shells = SHELLS * max(survey.spacing.values())
    half = np.floor(10 * np.median(survey.heights) / 2) / 10  # infinite for molecules
    return round(float(np.clip(min(shells, half), *CUTOFFS)), 1)


def advised(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis with what the choice of the cutoff adds to it."""
    if diagnosis.survey is None or not diagnosis.survey.spacing:
        return diagnosis
    survey, cutoff = diagnosis.survey, choose_cutoff(diagnosis.survey)
    short = survey.heights < 2 * cutoff
    if short.mean() <= MOST:
        return diagnosis
    reason = (
        f"{short.sum()} of {len(survey)} cells are shorter than twice the cutoff of {cutoff} Å (the median "
        f"is {np.median(survey.heights[short]):.1f} Å): atoms see neighbours together with their images, so "
        "that held-out structures of this kind cannot show what is wrong in larger cells"
    )
    finding = Finding(reason, "add some cells of at least twice the cutoff, or compare with them afterwards")
    return replace(diagnosis, findings=(*diagnosis.findings, finding))


def config_text(
    source: str | Path | Sequence[str],
    folder: Path,
    diagnosis: Diagnosis,
    filtered: bool,
    form: str = "py",
    layers: int | None = None,
) -> str:
    """The text of a config that ``nfflr.train.config.load_config`` takes.

    Args:
        source: the data, a path, the name of a JARVIS set, or a list of these.
        folder: where the config will lie.
        diagnosis: what is in the data, and how they are read.
        filtered: whether single structures can be left out (the source is a file of structures).
        form: ``py`` or ``yaml``.
        layers: of the network; default: by ``choose``.
    """
    survey = diagnosis.survey
    assert survey is not None  # the data are usable
    left_out = sorted({*survey.isolated, *survey.repeats}) if filtered else []
    choices = choose(survey, len(left_out), layers)
    elements = survey.bonded if filtered else survey.elements  # isolated atoms are left out
    steps = -(-choices.n_train // choices.batch_size) * choices.epochs
    forces = choices.target == "energy_and_forces"
    needed = ("total_energy", "forces")[: 1 + forces]
    return _template(f"config.{form}.jinja").render(
        name=sources.display_name(source),
        survey=survey,
        elements=elements,
        choices=choices,
        options=diagnosis.options,
        reading={n: str(field.description).split(";")[0] for n, field in DatasetConfig.model_fields.items()},
        labels=", ".join(survey.labels),
        groups=_groups(survey),
        paths=[_place(part, folder) for part in sources.parts(source)],
        left_out=left_out,
        reasons=_reasons(survey),
        held_out=f"{choices.n_val / (choices.n_val + choices.n_train):.0%}",
        missing=any(survey.missing(label) for label in needed),
        copies=bool(survey.copies) and not left_out,
        cutoff_reason=_cutoff_reason(survey),
        layers_reason=LAYERS[min(choices.layers, 2)],
        shared=len(elements) > OWN_WEIGHTS,
        atoms=f"{choices.batch_size * np.median(survey.sizes):.0f}",
        steps=f"{steps:,}",
        short=steps < 2000,
        validate_every=max(1, choices.epochs // 40),
        forces=forces,
        no_stress=diagnosis.stress_fault if choices.stress else "no stress labels",
    )


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__ or ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "comment": _comment,
        "wrapped": lambda text, indent: textwrap.indent(textwrap.fill(text, 100 - indent), " " * indent),
        "json": _json,
    }
    return environment.get_template(name)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    """The paragraphs of a text as lines of a comment; nothing for no text."""
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, 104)]
    return "".join(f"# {line}\n" for line in lines)


def _groups(survey: Survey) -> str:
    counts = Counter(survey.groups)
    if len(counts) < 2:
        return ""
    names = [f"{name} {count}" for name, count in counts.most_common(12)]
    names += [f"{len(counts) - 12} more"] if len(counts) > 12 else []
    return f"Groups in the data, by which nff evaluate reports errors: {', '.join(names)}."


def _reasons(survey: Survey) -> str:
    """Why structures are left out."""
    reasons = {
        "Isolated atoms are left out: reference energies are fitted to the others, so that the network "
        "learns only what differs; atoms alone lie several eV above it.": survey.isolated,
        "Repeated structures are left out: a copy in both splits would flatter validation.": survey.copies,
    }
    return "\n".join(reason for reason, structures in reasons.items() if structures)


def _cutoff_reason(survey: Survey) -> str:
    element = max(survey.spacing, key=survey.spacing.__getitem__)
    low, high = CUTOFFS
    return (
        f"Nearest neighbours of {element} are typically {survey.spacing[element]:.2f} Å away; {SHELLS} times "
        f"that takes in the third shell of most metals. Kept between {low} and {high} Å, as the cost grows "
        "with its cube, and within half the height of most cells, beyond which atoms see neighbours and "
        "their images."
    )


def _place(source: str | Path, folder: Path) -> tuple[str, str]:
    """A source as text and as Python; relative to a config near it, so that both can move together."""
    if not Path(source).exists():
        return str(source), json.dumps(str(source))
    path = Path(source).resolve()
    relative = Path(os.path.relpath(path, folder.resolve()))
    if relative.parts.count("..") > 2:
        return str(path), f"Path({_json(str(path))})"
    return relative.as_posix(), f"here / {_json(relative.as_posix())}"
