"""A first training config for data that have been looked at: every choice with its reason beside it."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.consistency import StressOffset
from ..data.diagnosis import Diagnosis
from ..data.survey import Survey
from ..units import GPA

SHELLS = 2.3  # cutoff over nearest-neighbour distance: three shells in diamond, fcc and bcc
CUTOFFS = (5.0, 6.5)  # Å; less misses non-bonded neighbours, more costs as its cube
ATOMS_PER_BATCH = 256
UPDATES = 8000  # steps, as of the bundled potentials
EPOCHS = (30, 500)
OWN_WEIGHTS = 8  # elements; with more, they share weights


@dataclass(frozen=True)
class Choices:
    """What the data decide, each explained by the config's comments."""

    cutoff: float  # Å
    n_val: int
    n_train: int
    batch_size: int
    epochs: int
    target: str
    stress: bool


def choose(seen: Survey, left_out: int = 0) -> Choices:
    """Settings for data of this size, density and labelling.

    Args:
        seen: the data.
        left_out: how many of the structures will not be used.
    """
    count = len(seen) - left_out
    share = 0.2 if count < 100 else 0.1 if count < 10_000 else 0.05
    n_val = max(1, round(share * count))
    n_train = count - n_val
    by_atoms = ATOMS_PER_BATCH / float(np.median(seen.sizes))
    by_count = n_train / 8  # so that an epoch has some steps
    batch = 2 ** int(np.log2(np.clip(min(by_atoms, by_count), 1, 16)))
    epochs = int(np.clip(UPDATES * batch / n_train, *EPOCHS))
    forces = bool(seen.labels.get("forces"))
    return Choices(
        cutoff=round(float(np.clip(SHELLS * max(seen.spacing.values()), *CUTOFFS)), 1),
        n_val=n_val,
        n_train=n_train,
        batch_size=batch,
        epochs=round(epochs, -1),
        target="energy_and_forces" if forces else "total_energy",
        stress=forces and bool(seen.labels.get("stress")),
    )


def config_text(source: str | Path, folder: Path, found: Diagnosis, filtered: bool) -> str:
    """The Python text of a config that ``nfflr.train.config.load_config`` takes.

    Args:
        source: the data, a path or the name of a JARVIS set.
        folder: where the config will lie.
        found: what is in the data, and how they are read.
        filtered: whether single structures can be left out (the source is a file of structures).
    """
    seen, options = found.survey, found.options
    assert seen is not None  # the data are usable
    left_out = sorted({*seen.isolated, *seen.repeats}) if filtered else []
    chosen = choose(seen, len(left_out))
    name = Path(source).name
    contents = f"{len(seen)} structures of {', '.join(seen.elements)}"
    usage = "Written by nff init; edit at will, run with: nff train config.py"
    blocks = [
        f'"""Training on {name}: {contents}.\n\n{usage}\n"""\n',
        _imports(filtered and bool(left_out)),
        _data(source, folder, seen, options, chosen, left_out),
        _model(seen, chosen),
        _schedule(seen, chosen),
        _loss(seen, chosen, found.offset),
        f'notes = {{"data": {json.dumps(name)}}}  # kept in the checkpoint: add licence and citation\n',
    ]
    return "\n".join(block for block in blocks if block)


def _imports(reading: bool) -> str:
    lines = ["from pathlib import Path", "", "from nfflr.data.dataset import AtomsDataset"]
    lines += ["from nfflr.structures.readers import read_structures"] if reading else []
    return "\n".join([*lines, "from nfflr.models.moment import MomentConfig, MomentNetwork", ""])


def _data(source, folder, seen: Survey, options: Mapping, chosen: Choices, left_out: list[int]) -> str:
    lines = [
        "here = Path(__file__).parent",
        'output_dir = here / "run"  # checkpoint, metrics.csv, learning curve, and the state for --resume',
        "random_seed = 0  # of initial weights and shuffling; another seed tells how much is chance",
        "",
        *_groups(seen),
        f"data = {_path(source, folder)}",
    ]
    used = "data"
    if left_out:
        lines += _left_out(seen, left_out)
        used = "structures"
    arguments = [f"{used},", f'"{chosen.target}",  # {_labels(seen)}']
    for key, value in options.items():
        arguments.append(f"{key}={json.dumps(value, ensure_ascii=False)},  # {_unit_reason(key)}")
    arguments += [
        f"n_train={chosen.n_train},",
        f"n_val={chosen.n_val},  # {chosen.n_val / (chosen.n_val + chosen.n_train):.0%} held out, at random, "
        "to choose the checkpoint",
    ]
    needed = ("total_energy", "forces")[: 1 + (chosen.target == "energy_and_forces")]
    if any(seen.missing(label) for label in needed):
        arguments.append("allow_missing=True,  # some labels are missing; those there are count")
    if seen.copies and not left_out:
        arguments.append("allow_duplicates=True,  # there are copies; better to remove them from the file")
    return "\n".join([*lines, "dataset = AtomsDataset(", *(f"    {a}" for a in arguments), ")", ""])


def _groups(seen: Survey) -> list[str]:
    """A comment on groups, by which ``nff evaluate`` tells errors."""
    counts = Counter(seen.groups)
    if len(counts) < 2:
        return []
    told = [f"{name} {count}" for name, count in counts.most_common(12)]
    told += [f"{len(counts) - 12} more"] if len(counts) > 12 else []
    return _comment("Groups in the data, by which nff evaluate tells errors: " + ", ".join(told) + ".")


def _left_out(seen: Survey, left_out: list[int]) -> list[str]:
    reasons = []
    if seen.isolated:
        reasons.append(
            "Isolated atoms are left out: reference energies are fitted to the rest, so that the network "
            "learns only what differs; atoms alone lie several eV above it."
        )
    if seen.repeats:
        reasons.append(
            "Repeated structures are left out: a copy in both splits would flatter the validation."
        )
    listed = _wrapped("left_out = {", ", ".join(map(str, left_out)), "}  # by their place in the file")
    pick = "structures = [atoms for k, atoms in enumerate(read_structures(data)) if k not in left_out]"
    return [line for reason in reasons for line in _comment(reason)] + [*listed, pick]


def _wrapped(start: str, text: str, end: str) -> list[str]:
    if len(start + text + end) <= 105:
        return [start + text + end]
    return [start, *(f"    {line}" for line in textwrap.wrap(text + ",", 100)), end]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 104)]


def _path(source: str | Path, folder: Path) -> str:
    """A path relative to the config where the two lie near, so that both can be moved together."""
    if not Path(source).exists():
        return json.dumps(str(source))
    path = Path(source).resolve()
    relative = Path(os.path.relpath(path, folder.resolve()))
    if relative.parts.count("..") > 2:
        return f"Path({json.dumps(str(path))})"
    return "here / " + json.dumps(relative.as_posix())


def _labels(seen: Survey) -> str:
    known = [name for name in ("total_energy", "forces", "stress") if seen.labels.get(name)]
    words = {"total_energy": "energies", "forces": "forces", "stress": "stresses"}
    return "labels found: " + ", ".join(words[name] for name in known)


def _unit_reason(key: str) -> str:
    return {
        "energy_units": "of the file; inside, everything is eV",
        "stress_units": "of the file; inside, eV/Å^3",
        "stress_sign": "-1: the file counts pressure positive, as VASP does",
        "stress_order": "how six numbers make a tensor",
        "keys": "names of the labels in the file",
    }[key]


def _model(seen: Survey, chosen: Choices) -> str:
    element = max(seen.spacing, key=seen.spacing.__getitem__)
    spacing = seen.spacing[element]
    low, high = CUTOFFS
    reason = (
        f"Nearest neighbours of {element} are typically {spacing:.2f} Å away; {SHELLS} times that takes in "
        f"the third shell of most solids. Kept between {low} and {high} Å, as the cost grows with its cube."
    )
    shared = len(seen.elements) > OWN_WEIGHTS
    return "\n".join(
        [
            *_comment(reason),
            "model = MomentNetwork(",
            "    MomentConfig(",
            *_elements(seen.elements),
            f"        cutoff={chosen.cutoff},  # Å",
            *(["        own_weights=False,  # many elements share them"] if shared else []),
            "    )",
            ")",
            "",
        ]
    )


def _elements(elements: tuple[str, ...]) -> list[str]:
    text = ", ".join(f'"{e}"' for e in elements) + ("," if len(elements) == 1 else "")
    if len(text) < 50:
        return [f"        elements=({text}),  # those in the data; others will be refused"]
    lines = (f"            {line}" for line in textwrap.wrap(text + ",", 90))
    return ["        elements=(  # those in the data; others will be refused", *lines, "        ),"]


def _schedule(seen: Survey, chosen: Choices) -> str:
    steps = -(-chosen.n_train // chosen.batch_size)
    atoms = chosen.batch_size * np.median(seen.sizes)
    return "\n".join(
        [
            *_comment(
                "Everything that is not set here has a default, listed in nfflr/train/config.py: the "
                "optimiser, the learning rate (2e-3; nff lr config.py looks for a better one), how energies, "
                "forces and stresses count."
            ),
            f"batch_size = {chosen.batch_size}  # about {atoms:.0f} atoms per step",
            f"epochs = {chosen.epochs}  # {steps * chosen.epochs:,} steps; fewer to try, more if the "
            "validation error still falls",
            "compile = True  # the step, with the C++ compiler of the machine; without one it is slower",
            f"validate_every = {max(1, chosen.epochs // 40)}  # epochs between validations",
            *(["ema_decay = 0.99  # of so few steps"] if steps * chosen.epochs < 2000 else []),
            "",
        ]
    )


def _loss(seen: Survey, chosen: Choices, offset: StressOffset | None) -> str:
    lines = []
    if chosen.target != "energy_and_forces":
        lines.append("force_weight, energy_weight = 0.0, 1.0  # there are no forces to learn from")
    if not chosen.stress:
        lines.append("stress_weight = 0.0  # no stress labels")
    elif offset is not None:
        lines.append(
            f"stress_weight = 0.0  # stresses are {offset.value / GPA:+.1f} GPa off what the energies say"
        )
    return "\n".join([*lines, ""]) if lines else ""
