"""Values beside the labels: energies of other names that contradict them, charges, spins, virials."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..records import FORCE_FIELD_LABELS, Reading, Record, is_missing
from ..sources import Entry
from . import Finding

WORDS = {"total_energy": ("energy",), "forces": ("force", "forces"), "stress": ("stress",)}
# With one of these words a value is another quantity, or what a model predicts.
# fmt: off
OTHER = {
    "free", "kinetic", "formation", "cohesive", "gap", "band", "fermi", "homo", "lumo", "per",
    "peratom", "atom", "atomic", "above", "hull", "nuclear", "repulsion", "vdw", "dispersion", "d2",
    "d3", "d4", "exchange", "correlation", "entropy", "zero", "zpe", "surface", "adsorption",
    "interaction", "binding", "std", "uncertainty", "error", "err", "var", "variance", "pred",
    "predicted", "mace", "ace", "nep", "nequip", "model", "ml", "mlip", "snap", "eam", "ff",
    "reference", "shift", "correction", "corrected", "delta", "relative", "zeropoint", "point", "max",
    "fmax", "net", "mean", "weight", "weights", "energies", "local",
}
# fmt: on
ENERGY_TOLERANCE = 0.005  # eV/atom; basis sets and smearing leave less
FORCE_TOLERANCE = 0.02  # eV/Å
LOOKED_AT = 400  # structures, evenly spaced
STATES = {  # names of what an energy depends on besides the structure
    "charge": ("charge", "total_charge", "net_charge", "system_charge", "tot_charge", "q_tot"),
    "spin": ("spin", "multiplicity", "spin_multiplicity", "total_spin", "mult", "uhf", "n_unpaired"),
    "magnetic moment": ("magmom", "total_magmom", "magnetization", "magnetic_moment", "tot_magnetization"),
}
LEAST_STATE = {"charge": 0.1, "spin": 0.1, "magnetic moment": 1.0}


def _sample(entries: Sequence[Entry], most: int) -> Iterator[Entry]:
    return (entries[k] for k in range(0, len(entries), max(1, len(entries) // most)))


def alike(entry: Entry, label: str) -> list[str]:
    """Names of values that look like a label by name and shape."""
    sizes = {"total_energy": {1}, "forces": {3 * len(entry.atoms)}, "stress": {6, 9}}[label]
    names = []
    for name, value in entry.values.items():
        words = _words(name)
        numeric = not is_missing(value) and not isinstance(value, str | dict | bool)
        named = any(word in words for word in WORDS[label]) and not OTHER & words
        if named and numeric and np.size(value) in sizes:
            names.append(name)
    return names


def _words(name: str) -> set[str]:
    """Lower-case words of a name: ``REF_energy``, ``dftEnergy`` and ``energy.dft`` have two."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return set(re.split(r"[^a-z0-9]+", parted.lower()))


def rival_finding(readings: Sequence[Reading], options: Mapping[str, Any], name: str) -> Finding | None:
    """Energies or forces of several names that contradict each other, where none was chosen."""
    keys = options.get("keys", {})
    found: dict[str, dict[str, float]] = {}
    for label in ("total_energy", "forces"):
        if label not in keys:
            found[label] = _differences(readings, label)
    limits = {"total_energy": ENERGY_TOLERANCE, "forces": FORCE_TOLERANCE}
    beyond = {label: {n: v for n, v in found[label].items() if v > limits[label]} for label in found}
    if not any(beyond.values()):
        return None
    told, other = [], []
    for label, unit in (("total_energy", "eV/atom"), ("forces", "eV/Å")):
        if beyond.get(label):
            rival = max(beyond[label], key=beyond[label].__getitem__)
            own = readings[0].conversion.names[label][0]
            told.append(f"{own} and {rival} differ by {beyond[label][rival]:.3g} {unit} rms")
            other.append((label, own, rival))
    reason = f"{name}: {', '.join(told)}, so they are of different calculations"
    first, second = (" ".join(f"--key {o[0]}={o[k]}" for o in other) for k in (2, 1))
    return Finding(reason, f"choose by {first}, or by {second}", fatal=True)


def _differences(readings: Sequence[Reading], label: str) -> dict[str, float]:
    """Rms difference of values of other names from the label; of energies less what composition explains."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
    for reading in readings:
        own = reading.conversion.names.get(label, ())
        for entry in _sample(reading.entries, LOOKED_AT):
            value = next((entry.values[n] for n in own if n in entry.values), None)
            if value is None:
                continue
            counts = np.bincount(entry.atoms.numbers, minlength=119)
            for name in alike(entry, label):
                if name not in own:
                    pairs[name].append((np.ravel(value), np.ravel(entry.values[name]), counts))
    differences = {}
    for name, values in pairs.items():
        own_values, others = (np.concatenate([v[k] for v in values]).astype(float) for k in (0, 1))
        off = own_values - others
        if label == "total_energy":
            counts = np.array([v[2] for v in values], dtype=float)
            counts = counts[:, counts.any(axis=0)]
            if len(off) > 2 * counts.shape[1]:  # another zero of energies is no contradiction
                off = off - counts @ np.linalg.lstsq(counts, off, rcond=None)[0]
            off = off / counts.sum(axis=1)
        off = off[np.isfinite(off)]
        if len(off):
            differences[name] = float(np.sqrt(np.mean(off**2)))
    return differences


def state_findings(readings: Sequence[Reading], records: Sequence[Record]) -> list[Finding]:
    """Charges, spins and magnetic moments that differ between structures of one composition."""
    findings = []
    energy = {record.id: record for record in records}
    for what, names in STATES.items():
        values = _state_values(readings, names)
        groups: dict[bytes, list[tuple[float, str]]] = defaultdict(list)
        for ident, numbers, value in values:
            groups[numbers].append((value, ident))
        spread = max((_spread(own, what) for own in groups.values()), default=0.0)
        across = what == "charge" and values and np.ptp([v for *_, v in values]) >= LEAST_STATE[what]
        if spread or across:
            findings.append(_state_finding(what, values, groups, energy))
    return findings


def _state_values(readings: Sequence[Reading], names: Sequence[str]) -> list[tuple[str, bytes, float]]:
    found = []
    for reading in readings:
        for entry in reading.entries:
            lowered = {key.lower(): value for key, value in entry.values.items()}
            value = next((lowered[n] for n in names if n in lowered), None)
            try:
                number = float(value)  # type: ignore[arg-type]  # what is none is passed over
            except (TypeError, ValueError):
                continue
            if np.isfinite(number):
                ident = f"{reading.conversion.folder}{entry.id}"
                found.append((ident, np.sort(entry.atoms.numbers).tobytes(), number))
    return found


def _spread(own: Sequence[tuple[float, str]], what: str) -> float:
    values = np.array([value for value, _ in own])
    least = LEAST_STATE[what]
    if what == "magnetic moment":  # it fluctuates in metals
        least = max(least, 0.3 * np.abs(values).max())
    return float(np.ptp(values)) if np.ptp(values) >= least else 0.0


def _state_finding(
    what: str,
    values: Sequence[tuple[str, bytes, float]],
    groups: Mapping[bytes, Sequence[tuple[float, str]]],
    records: Mapping[str, Record],
) -> Finding:
    numbers = sorted({round(value, 3) for *_, value in values})
    listed = ", ".join(f"{n:g}" for n in numbers[:6]) + (", …" if len(numbers) > 6 else "")
    reason = f"the data mix states: {what} {listed}"
    apart = max((_apart(own, records) for own in groups.values()), default=0.0)
    if apart > 0:
        reason += f"; energies of one composition lie {apart:.3g} eV apart between them"
    advice = f"a potential does not know the {what}: train on structures of one {what}"
    return Finding(reason, advice)


def _apart(own: Sequence[tuple[float, str]], records: Mapping[str, Record]) -> float:
    """Largest difference between mean energies (eV) of the states of one composition."""
    energies: dict[float, list[float]] = defaultdict(list)
    for value, ident in own:
        record = records.get(ident)
        if record is not None and "total_energy" in record.labels:
            energies[round(value, 3)].append(float(record.labels["total_energy"]))
    means = [float(np.mean(e)) for e in energies.values()]
    return max(means) - min(means) if len(means) > 1 else 0.0


def virial_name(readings: Sequence[Reading]) -> str | None:
    """The name of values that are virials by name and shape, where no stress is read."""
    for reading in readings:
        for entry in _sample(reading.entries, 20):
            for name, value in entry.values.items():
                if (
                    "virial" in name.lower()
                    and not isinstance(value, str | dict)
                    and np.size(value) in (6, 9)
                ):
                    return name
    return None


def unnamed_findings(
    readings: Sequence[Reading], records: Sequence[Record], options: Mapping[str, Any], name: str
) -> list[Finding]:
    """Labels that are nowhere under their own name, while a value of another name looks like them."""
    findings = []
    for label in FORCE_FIELD_LABELS:
        chosen = label in options.get("keys", {}) and label != "total_energy"  # left out on purpose, maybe
        if chosen or any(label in record.labels for record in records):
            continue
        names = {n for r in readings for entry in _sample(r.entries, 20) for n in alike(entry, label)}
        stored = sorted(names, key=lambda n: ("total" not in n, n))
        if stored:
            advice = f"give --key {label}={stored[0]}"
            reason = f"{name}: no {label}, but values named {', '.join(stored)}"
            findings.append(Finding(reason, advice, fatal=label == "total_energy"))
        elif label == "total_energy":
            reason = f"{name}: no structure has a total_energy, a force field needs it"
            findings.append(Finding(reason, "name it by --key total_energy=NAME, or compute it", fatal=True))
    return findings
