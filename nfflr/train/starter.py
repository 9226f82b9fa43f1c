"""A first training config for data that have been looked at: every choice with its reason beside it."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data import sources
from ..data.quality import Finding
from ..data.quality.diagnosis import Diagnosis
from ..data.quality.survey import Survey

SHELLS = 2.3  # cutoff over nearest-neighbour distance: three shells in diamond, fcc and bcc
CUTOFFS = (5.0, 6.5)  # Å; less misses non-bonded neighbours, more costs as its cube
ATOMS_PER_BATCH = 256
UPDATES = 8000  # steps, as of the bundled potentials
EPOCHS = (30, 500)
OWN_WEIGHTS = 8  # elements; with more, they share weights
MOST = 0.5  # share of cells that are short from which that is said


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
        cutoff=choose_cutoff(seen),
        n_val=n_val,
        n_train=n_train,
        batch_size=batch,
        epochs=round(epochs, -1),
        target="energy_and_forces" if forces else "total_energy",
        stress=forces and bool(seen.labels.get("stress")),
    )


def choose_cutoff(seen: Survey) -> float:
    """Radius (Å) of three shells, or half the height of most cells where that is less, within ``CUTOFFS``."""
    shells = SHELLS * max(seen.spacing.values())
    half = np.floor(10 * np.median(seen.heights) / 2) / 10 if np.isfinite(np.median(seen.heights)) else np.inf
    return round(float(np.clip(min(shells, half), *CUTOFFS)), 1)


def advised(found: Diagnosis) -> Diagnosis:
    """The diagnosis with what the choice of the cutoff adds to it."""
    if found.survey is None or not found.survey.spacing:
        return found
    seen, cutoff = found.survey, choose_cutoff(found.survey)
    short = seen.heights < 2 * cutoff
    if short.mean() <= MOST:
        return found
    reason = (
        f"{short.sum()} of {len(seen)} cells are shorter than twice the cutoff of {cutoff} Å (the median is "
        f"{np.median(seen.heights[short]):.1f} Å): atoms see neighbours together with their images, so that "
        "held-out structures of this kind cannot show what is wrong in larger cells"
    )
    finding = Finding(reason, "add some cells of at least twice the cutoff, or compare with them afterwards")
    return replace(found, findings=(*found.findings, finding))


def config_text(source: str | Path | Sequence[str], folder: Path, found: Diagnosis, filtered: bool) -> str:
    """The Python text of a config that ``nfflr.train.config.load_config`` takes.

    Args:
        source: the data, a path, the name of a JARVIS set, or a list of these.
        folder: where the config will lie.
        found: what is in the data, and how they are read.
        filtered: whether single structures can be left out (the source is a file of structures).
    """
    seen, options = found.survey, found.options
    assert seen is not None  # the data are usable
    left_out = sorted({*seen.isolated, *seen.repeats}) if filtered else []
    chosen = choose(seen, len(left_out))
    elements = seen.bonded if filtered else seen.elements  # isolated atoms are left out
    name = sources.display_name(source)
    contents = f"{len(seen)} structures of {', '.join(elements)}"
    usage = "Written by nff init; edit at will, run with: nff train config.py"
    blocks = [
        f'"""Training on {name}: {contents}.\n\n{usage}\n"""\n',
        _imports(filtered and bool(left_out), len(sources.parts(source)) > 1),
        _data(source, folder, seen, options, chosen, left_out),
        _model(seen, elements, chosen),
        _schedule(seen, chosen),
        _loss(chosen, found.stress_fault),
        f'notes = {{"data": {json.dumps(name)}}}  # kept in the checkpoint: add licence and citation\n',
    ]
    return "\n".join(block for block in blocks if block)


def _imports(reading: bool, several: bool) -> str:
    lines = ["from itertools import chain"] if reading and several else []
    lines += ["from pathlib import Path", "", "from nfflr.data.dataset import AtomsDataset"]
    lines += ["from nfflr.structures.readers import read_structures"] if reading else []
    return "\n".join([*lines, "from nfflr.models.moment import MomentConfig, MomentNetwork", ""])


def _data(source, folder, seen: Survey, options: Mapping, chosen: Choices, left_out: list[int]) -> str:
    lines = [
        "here = Path(__file__).parent",
        'output_dir = here / "run"  # checkpoint, metrics.csv, learning curve, and the state for --resume',
        "random_seed = 0  # of initial weights and shuffling; another seed tells how much is chance",
        "",
        *_groups(seen),
        *_sources(source, folder),
    ]
    used = "data"
    if left_out:
        lines += _left_out(seen, left_out, len(sources.parts(source)) > 1)
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


def _left_out(seen: Survey, left_out: list[int], several: bool) -> list[str]:
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
    listed = _wrapped("left_out = {", ", ".join(map(str, left_out)), "}  # by their place in the data")
    frames = "chain.from_iterable(map(read_structures, data))" if several else "read_structures(data)"
    pick = f"structures = [atoms for k, atoms in enumerate({frames}) if k not in left_out]"
    return [line for reason in reasons for line in _comment(reason)] + [*listed, pick]


def _wrapped(start: str, text: str, end: str) -> list[str]:
    if len(start + text + end) <= 105:
        return [start + text + end]
    return [start, *(f"    {line}" for line in textwrap.wrap(text + ",", 100)), end]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 104)]


def _sources(source: str | Path | Sequence[str], folder: Path) -> list[str]:
    paths = [_path(part, folder) for part in sources.parts(source)]
    return (
        [f"data = {paths[0]}"] if len(paths) == 1 else ["data = [", *(f"    {path}," for path in paths), "]"]
    )


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
        "force_units": "of the file; inside, eV/Å",
        "force_sign": "-1: the file holds gradients",
        "stress_units": "of the file; inside, eV/Å^3; eV: virials, which are divided by the volume",
        "stress_sign": "-1: the file counts pressure positive, as VASP and virials do",
        "stress_order": "how six numbers make a tensor",
        "keys": "names of the labels in the file",
    }[key]


def _model(seen: Survey, elements: tuple[str, ...], chosen: Choices) -> str:
    element = max(seen.spacing, key=seen.spacing.__getitem__)
    spacing = seen.spacing[element]
    low, high = CUTOFFS
    reason = (
        f"Nearest neighbours of {element} are typically {spacing:.2f} Å away; {SHELLS} times that takes in "
        f"the third shell of most solids. Kept between {low} and {high} Å, as the cost grows with its cube, "
        "and within half the height of most cells, beyond which atoms see neighbours and their images."
    )
    shared = len(elements) > OWN_WEIGHTS
    return "\n".join(
        [
            *_comment(reason),
            "model = MomentNetwork(",
            "    MomentConfig(",
            *_elements(elements),
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


def _loss(chosen: Choices, stress_fault: str) -> str:
    lines = []
    if chosen.target != "energy_and_forces":
        lines.append("force_weight, energy_weight = 0.0, 1.0  # there are no forces to learn from")
    if not chosen.stress:
        lines.append("stress_weight = 0.0  # no stress labels")
    elif stress_fault:
        lines.append(f"stress_weight = 0.0  # {stress_fault}")
    return "\n".join([*lines, ""]) if lines else ""
