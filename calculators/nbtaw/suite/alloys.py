"""Random alloys of 128 atoms and what the labels of 16-atom cells say about them: structures and references.

Run in this folder: python alloys.py. Energies are a cluster expansion, fitted to the relaxed labelled cells
of an alloy: a parabola in the composition, and pair correlations of three shells less those of random atoms.
"""

import json
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.io import write
from matscipy.neighbours import neighbour_list

from nfflr import read_structures

SHELLS = (0.866, 1.0, 1.414)  # lattice constants
GPA = 0.0062415091  # eV/Å^3


def features(atoms, element):
    spin = np.where(atoms.symbols == element, 1.0, -1.0)
    a = (2 * atoms.get_volume() / len(atoms)) ** (1 / 3)
    i, j, d = neighbour_list("ijd", atoms, 1.5 * a)
    pairs = [(np.abs(d / a - shell) < 0.06) for shell in SHELLS]
    mean = spin.mean()
    return [1, mean, mean**2, *[(spin[i[near]] * spin[j[near]]).mean() - mean**2 for near in pairs]]


def random_alloy(elements, volume):
    atoms = bulk(elements[0], "bcc", a=(2 * volume) ** (1 / 3), cubic=True) * (4, 4, 4)
    atoms.symbols[np.random.default_rng(0).permutation(128)[:64]] = elements[1]
    return atoms[np.argsort(atoms.symbols, kind="stable")]


def save(name, workflow, source, result, units):
    content = {"workflow": workflow, "source": source, "result": result, "units": units}
    Path(name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


labels = [atoms for file in ("train", "test") for atoms in read_structures(f"../{file}.xyz.xz")]
for elements in (("Nb", "Ta"), ("Nb", "W"), ("Ta", "W")):
    pair, name = "–".join(elements), "".join(elements).lower()
    cells = [atoms for atoms in labels if atoms.info["group"] == "".join(elements) + "_SS"]
    relaxed = [atoms for atoms in cells if atoms.info["note"].startswith("relax")]
    matrix = np.array([features(atoms, elements[1]) for atoms in relaxed])
    energies = np.array([atoms.get_potential_energy() / 16 for atoms in relaxed])  # eV/atom
    volumes = np.array([atoms.get_volume() / 16 for atoms in relaxed])  # Å^3/atom
    weights = np.linalg.lstsq(matrix, energies, rcond=None)[0]
    volume_weights = np.linalg.lstsq(matrix, volumes, rcond=None)[0]
    error = 1e3 * np.sqrt(np.mean((matrix @ weights - energies) ** 2))
    atoms = random_alloy(elements, volume_weights[0])
    write(f"{name}-random.vasp", atoms)
    own = np.array(features(atoms, elements[1]))
    energy, volume = 128 * float(own @ weights), 128 * float(own @ volume_weights)
    save(
        f"{name}-random.json",
        "relax",
        f"cluster expansion of {len(relaxed)} relaxed 16-atom {pair} cells (X.-G. Li et al. 2020), "
        f"which it fits to {error:.1f} meV/atom",
        {"energy": round(energy, 3), "volume": round(volume, 2)},
        {"energy": "eV", "volume": "Å^3"},
    )
    if name == "nbta":  # of the others, strained cells lie too far from equilibrium
        half = [a for a in cells if np.count_nonzero(a.symbols == "Ta") == 8]
        pressure = [-np.trace(a.get_stress(voigt=False)) / 3 / GPA for a in half]
        slope, start = np.polyfit([np.log(a.get_volume() / 16) for a in half], pressure, 1)
        rest = float(np.exp(-start / slope))
        save(
            f"{name}-eos.json",
            "eos",
            f"line through the PBE pressures of {len(half)} Nb8Ta8 cells over the logarithm of their volume",
            {"bulk_modulus": round(float(-slope), 1), "volume_per_atom": round(rest, 3)},
            {"bulk_modulus": "GPa", "volume_per_atom": "Å^3"},
        )
