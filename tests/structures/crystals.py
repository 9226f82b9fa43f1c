"""Crystals of every space-group setting by spglib's tables, and CIFs written by hand."""

import warnings

import ase
import numpy as np
import spglib
from scipy.spatial import cKDTree

TAGS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")


def cif(cell, sites, lines=(), columns="label type_symbol fract_x fract_y fract_z", name="x"):
    """Text of a CIF.

    Args:
        cell: six parameters, or None.
        sites: rows of texts, one for each atom.
        lines: what stands between the cell and the atoms.
        columns: tags of the rows, without ``_atom_site_``.
    """
    parameters = [f"_cell_{tag} {value}" for tag, value in zip(TAGS, cell or (), strict=bool(cell))]
    loop = ["loop_", *(f"_atom_site_{column}" for column in columns.split())]
    return "\n".join(
        [f"data_{name}", *parameters, *lines, *loop, *(" ".join(map(str, s)) for s in sites), ""]
    )


def operations_of(hall_number):
    """Rotations (n, 3, 3) and translations (n, 3) of one of spglib's 530 settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of changes to spglib to come
        data = spglib.get_symmetry_from_database(hall_number)
    return data["rotations"], data["translations"]


def kind_of(hall_number):
    """spglib's entry of one of its 530 settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return spglib.get_spacegroup_type(hall_number)


def random_cell(rotations, rng, scale=11.0):
    """A lattice (3, 3) in Å that has the rotations and no other symmetry by intention."""
    root = np.eye(3) + rng.uniform(-0.15, 0.15, (3, 3))
    metric = root @ root.T * scale**2 * np.outer(*[rng.uniform(0.8, 1.3, 3)] * 2)
    metric = np.mean([rotation.T @ metric @ rotation for rotation in rotations], axis=0)
    a, b, c = np.sqrt(np.diag(metric))
    cosines = metric[1, 2] / b / c, metric[0, 2] / a / c, metric[0, 1] / a / b
    return ase.cell.Cell.fromcellpar([a, b, c, *np.degrees(np.arccos(cosines))])


def images(position, rotations, translations):
    """Distinct images (m, 3) of a fractional position, by comparison of all pairs."""
    everything = (rotations @ position + translations) % 1.0
    offsets = everything[:, None] - everything[None]
    same = np.abs(offsets - np.rint(offsets)).max(axis=2) < 1e-4
    return everything[np.flatnonzero(same.argmax(axis=1) == np.arange(len(everything)))]


def shortest(position, positions, cell):
    """Shortest distance in Å from a position to others (m, 3) and their images, by brute force."""
    steps = np.array(np.meshgrid(*[(-1, 0, 1)] * 3)).reshape(3, -1).T  # (27, 3)
    lengths = np.linalg.norm((positions[:, None] - position + steps) @ cell, axis=2)
    return lengths[lengths > 1e-9].min(initial=np.inf)


def random_site(rotations, translations, cell, rng, special):
    """A position whose images keep half an ångström of distance; on a symmetry element if there is one."""
    for _ in range(200):
        position = rng.random(3).round(5)
        if special:
            k = rng.integers(len(rotations))
            point, chain = position, [position]
            for _ in range(12):
                point = rotations[k] @ point + translations[k]
                chain.append(point)
            position = np.mean(chain[:12], axis=0)  # 12 is a multiple of every order
            offset = rotations[k] @ position + translations[k] - position
            if np.abs(offset - np.rint(offset)).max() > 1e-9:
                continue  # a screw axis or a glide plane fixes nothing
        everything = images(position, rotations, translations)
        if shortest(everything[0], everything, cell.array) > 0.5:
            return position
    return None


def drawn(hall_number, digits=8):
    """Cell, sites (symbol, position) and the whole crystal (numbers, positions) of a setting."""
    rng = np.random.default_rng(hall_number)
    rotations, translations = operations_of(hall_number)
    cell = random_cell(rotations, rng)
    sites, numbers, positions = [], [], []
    for symbol, number, special in (("C", 6, False), ("N", 7, True), ("O", 8, True)):
        position = random_site(rotations, translations, cell, rng, special)
        if position is None:
            continue
        everything = images(position, rotations, translations)
        distances = [np.abs((p - q) - np.rint(p - q)).max() for p in everything for q in positions]
        if min(distances, default=1) * 8 < 0.5:
            continue
        sites.append((f"{symbol}1", symbol, *(f"{x:.{digits}f}" for x in position)))
        numbers += [number] * len(everything)
        positions += list(everything)
    assert sites
    return cell, sites, numbers, positions


def same_crystal(atoms, numbers, positions, tolerance=1e-4):
    """Whether atoms are these elements (N,) at these fractional positions (N, 3), in any order."""
    if sorted(atoms.numbers) != sorted(numbers):
        return False
    tree = cKDTree(np.asarray(positions) % 1.0, boxsize=1.0)
    fractional = np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T % 1.0
    distances, nearest = tree.query(fractional % 1.0)
    return distances.max() < tolerance and bool((np.asarray(numbers)[nearest] == atoms.numbers).all())
