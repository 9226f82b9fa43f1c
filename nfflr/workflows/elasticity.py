"""Elastic constants, moduli and mechanical stability."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Annotated

import ase
import matplotlib.ticker
import numpy as np
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field

from ..errors import NumericsError
from ..structures.cells import strained, vacuum_axes
from ..units import GPA, Unit
from .framework.contract import workflow
from .framework.evaluations import evaluate
from .framework.interface import Array, Progress, Settings, check_crystal, symmetry_of
from .framework.results import Result, overlay
from .framework.scores import Score, field_score
from .relaxation import RelaxSettings, relax, relax_each

TOPIC = "Stiffness"
PLACE = 2
EXAMPLES = ("nff elastic si.cif --relax",)

MOST_LISTED = 9  # constants in a message, those of an orthorhombic crystal; all are in the result
NEGLIGIBLE = 1e-3  # of the largest constant: zero by symmetry
NOTABLE = 0.01  # of the bulk modulus: a residual stress that changes constants by a few per cent


class ElasticSettings(Settings):
    """Options of an elastic stiffness."""

    strain: float = Field(0.005, gt=0, le=0.05, description="largest strain, either way")
    points: int = Field(3, ge=2, description="strains of each sign for each pattern")
    internal: bool = Field(True, description="also relax the atoms in each strained cell")
    relax: bool = Field(False, description="relax cell and atoms before anything is strained")
    fmax: Annotated[float, Unit("eV/Å")] = Field(1e-4, gt=0, description="largest force left by a relaxation")
    steps: int = Field(500, ge=1, description="give up a relaxation after this many steps")
    symmetry: bool = Field(True, description="strain only as the point group requires")
    symprec: Annotated[float, Unit("Å")] = Field(1e-3, gt=0, description="tolerance of the symmetry")


class ElasticResult(Result):
    """Stiffness in the structure's own Cartesian axes, Voigt order 11, 22, 33, 23, 13, 12.

    The moduli are those of ``stiffness``: with relaxed atoms, or clamped ones with ``--no-internal``. What
    needs the compliance is None where the crystal is not stable.
    """

    bulk_modulus: Annotated[float | None, Unit("GPa")]  # Hill's
    shear_modulus: Annotated[float | None, Unit("GPa")]
    young_modulus: Annotated[float | None, Unit("GPa")]
    poisson_ratio: float | None
    universal_anisotropy: float | None
    bulk_voigt: Annotated[float, Unit("GPa")]
    bulk_reuss: Annotated[float | None, Unit("GPa")]
    shear_voigt: Annotated[float, Unit("GPa")]
    shear_reuss: Annotated[float | None, Unit("GPa")]
    stable: bool
    point_group: str
    independent_constants: int
    strained_cells: int
    stiffness: Annotated[Array, Unit("GPa")]  # (6, 6)
    stiffness_error: Annotated[Array, Unit("GPa")]  # (6, 6) standard errors
    clamped: Annotated[Array, Unit("GPa")]  # (6, 6)
    clamped_error: Annotated[Array, Unit("GPa")]  # (6, 6)
    eigenvalues: Annotated[Array, Unit("GPa")]  # (6,) of the stiffness, ascending
    residual_stress: Annotated[Array, Unit("GPa")]  # (6,) of the start, xx, yy, zz, yz, xz, xy


@workflow
def elastic(
    atoms: ase.Atoms, calculator: Calculator, settings: ElasticSettings, progress: Progress
) -> ElasticResult:
    """Elastic stiffness from central differences of the stress.

    The stiffness is written in a basis of the tensors that the point group (spglib) allows, three for a cubic
    crystal. Of the six Voigt strains, only those are applied that determine all coefficients, two for a cubic
    crystal. For each, (σ(δ) − σ(−δ))/2 is fitted by a line through the origin over the strains δ; least
    squares then give the coefficients. So a stress of the start and every even order of δ drop out; the
    standard errors, carried from the lines to the constants, tell of noise and of odd orders.

    These are stress–strain coefficients (Wallace, Thermodynamics of Crystals, 1972): the elastic constants if
    the start is free of stress, and what decides on stability under a hydrostatic pressure. Voigt–Reuss–Hill
    averages: Hill, Proc. Phys. Soc. A 65, 349 (1952). Stability: Mouhat, Coudert, Phys. Rev. B 90, 224104
    (2014). Anisotropy: Ranganathan, Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008).

    Args:
        atoms: (N atoms), periodic along three axes, near its minimum; constraints are dropped.
        calculator: any ASE calculator with stress.

    Raises:
        StructureError: the structure is not a crystal, or its symmetry is not found.

    Example:
        >>> from ase.build import bulk
        >>> from ase.calculators.emt import EMT
        >>> result = elastic(bulk("Cu", a=3.59), EMT())
        >>> result.stable, result.point_group
        (True, 'm-3m')
    """
    check_crystal(atoms, "an elastic stiffness")
    atoms = atoms.copy()
    atoms.set_constraint()
    notes: list[str] = []
    if settings.relax:
        atoms, notes = _relaxed_first(atoms, calculator, settings)
    group, rotations = _point_group(atoms, settings)
    basis = invariant_stiffness(rotations)
    patterns = necessary_strains(basis)
    deltas = settings.strain * np.arange(1, settings.points + 1) / settings.points
    strains = np.array([s * d * np.eye(6)[j] for j in patterns for d in deltas for s in (1, -1)])
    frames = [strained(atoms, strain) for strain in strains]

    start, *results = evaluate(calculator, [atoms, *frames], ("energy", "forces", "stress"))
    clamped = _stiffness([values["stress"] for values in results], deltas, patterns, basis)
    stiffness, reason = clamped, ""
    if settings.internal:
        options = RelaxSettings(fmax=settings.fmax, steps=settings.steps, optimizer="bfgs")
        names = [f"strained cell {k}" for k in range(len(frames))]
        relaxed, reason = relax_each(frames, names, calculator, options, progress)
        stresses = [result.relaxed.get_stress() for result in relaxed]
        stiffness = _stiffness(stresses, deltas, patterns, basis)

    values = moduli(stiffness[0])
    notes += _warnings(start, values, settings)
    facts = f"point group {group}, {len(basis)} constants from {len(frames)} strained cells"
    if len(basis) <= MOST_LISTED:
        facts += f": {named_constants(stiffness[0], basis)} GPa"
    return ElasticResult(
        converged=not reason,
        message=reason or "; ".join([_verdict(atoms, values["stable"]), facts, *notes]),
        **values,
        point_group=group,
        independent_constants=len(basis),
        strained_cells=len(frames),
        stiffness=stiffness[0],
        stiffness_error=stiffness[1],
        clamped=clamped[0],
        clamped_error=clamped[1],
        residual_stress=start["stress"] / GPA,
    )


def _verdict(atoms: ase.Atoms, stable: bool) -> str:
    if axes := vacuum_axes(atoms):
        return (
            f"no verdict on stability: the cell holds vacuum along {' and '.join(axes)}, so these are "
            "averages over matter and vacuum; give a crystal"
        )
    return "mechanically stable" if stable else "mechanically unstable"


def _relaxed_first(
    atoms: ase.Atoms, calculator: Calculator, settings: ElasticSettings
) -> tuple[ase.Atoms, list[str]]:
    """The relaxed structure without its results, and what there is to say about it."""
    options = RelaxSettings(
        cell=True, symmetry=True, fmax=settings.fmax, steps=settings.steps, optimizer="bfgs"
    )
    result = relax(atoms, calculator, options)
    atoms = result.relaxed.copy()
    atoms.set_constraint()
    return atoms, [] if result.converged else [f"the first relaxation: {result.message}"]


def _point_group(atoms: ase.Atoms, settings: ElasticSettings) -> tuple[str, np.ndarray]:
    """Name of the point group, and its operations as Cartesian orthogonal matrices (R, 3, 3)."""
    if not settings.symmetry:
        return "1", np.eye(3)[None]
    symmetry = symmetry_of(atoms, settings.symprec)
    to_cartesian = atoms.cell.array.T
    rotations = to_cartesian @ np.unique(symmetry.rotations, axis=0) @ np.linalg.inv(to_cartesian)
    left, _, right = np.linalg.svd(rotations)  # the nearest rotation, whatever the cell's rounding
    return symmetry.pointgroup, left @ right


def invariant_stiffness(rotations: np.ndarray) -> np.ndarray:
    """Orthonormal basis (P, 6, 6) of the symmetric stiffnesses that rotations (R, 3, 3) leave as they are."""
    units = np.array([voigt_6_to_full_3x3_stress(unit) for unit in np.eye(6)])  # (6, 3, 3)
    turned = np.einsum("rij,ajk,rlk->rail", rotations, units, rotations).reshape(-1, 3, 3)
    # (R, 6, 6) matrices K with σ' = K σ, and so C' = K C Kᵀ
    bond = full_3x3_to_voigt_6_stress(turned).reshape(-1, 6, 6).transpose(0, 2, 1)
    rows, columns = np.triu_indices(6)
    symmetric = np.zeros((21, 6, 6))
    symmetric[np.arange(21), rows, columns] = symmetric[np.arange(21), columns, rows] = 1
    means = np.einsum("rij,pjk,rlk->pil", bond, symmetric, bond) / len(rotations)
    _, sizes, directions = np.linalg.svd(means.reshape(21, 36))
    return directions[:21][sizes > 1e-6].reshape(-1, 6, 6)


def necessary_strains(basis: np.ndarray) -> list[int]:
    """Voigt indices of the fewest unit strains, in order, whose stresses determine every coefficient."""
    indices: list[int] = []
    rank = 0
    for j in range(6):
        larger = np.linalg.matrix_rank(_design(basis, [*indices, j]), tol=1e-6)
        if larger > rank:
            indices, rank = [*indices, j], larger
    return indices


def _design(basis: np.ndarray, patterns: list[int]) -> np.ndarray:
    """(6·J, P): stresses of each basis tensor under each unit strain."""
    return basis[:, :, patterns].transpose(2, 1, 0).reshape(-1, len(basis))


def _stiffness(
    stresses: list[np.ndarray], deltas: np.ndarray, patterns: list[int], basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Stiffness (6, 6) and its standard errors in GPa from stresses, by pattern, strain and sign."""
    by_pattern = np.reshape(stresses, (len(patterns), len(deltas), 2, 6))
    odd = (by_pattern[:, :, 0] - by_pattern[:, :, 1]) / 2 / GPA  # (J, K, 6)
    norm = (deltas**2).sum()
    slopes = np.einsum("k,jki->ji", deltas, odd) / norm
    residuals = odd - deltas[:, None] * slopes[:, None]
    variances = (residuals**2).sum(axis=1) / (len(deltas) - 1) / norm  # (J, 6)
    solve = np.einsum("pab,px->abx", basis, np.linalg.pinv(_design(basis, patterns)))  # (6, 6, 6·J)
    return solve @ slopes.ravel(), np.sqrt(solve**2 @ variances.ravel())


def named_constants(stiffness: np.ndarray, basis: np.ndarray) -> str:
    """``C11 152.7, C12 56.2, C44 98.9``: the first entries of (6, 6) that by symmetry determine all."""
    entries: list[tuple[int, int]] = []
    for entry in combinations_with_replacement(range(6), 2):
        values = basis[:, *np.transpose([*entries, entry])]  # (P, entries)
        if np.linalg.matrix_rank(values, tol=1e-6) == len(entries) + 1:
            entries.append(entry)
    return ", ".join(f"C{i + 1}{j + 1} {stiffness[i, j]:.4g}" for i, j in entries)


def moduli(stiffness: np.ndarray) -> dict:
    """Averages (GPa) of a stiffness (6, 6), its eigenvalues, anisotropy and stability."""
    eigenvalues = np.linalg.eigvalsh(stiffness)
    c = stiffness
    bulk_voigt = c[:3, :3].sum() / 9
    shear_voigt = (np.trace(c[:3, :3]) - c[[0, 0, 1], [1, 2, 2]].sum() + 3 * np.trace(c[3:, 3:])) / 15
    values = {"bulk_voigt": bulk_voigt, "shear_voigt": shear_voigt}
    names = ("bulk_reuss", "shear_reuss", "bulk_modulus", "shear_modulus", "young_modulus", "poisson_ratio")
    values |= dict.fromkeys((*names, "universal_anisotropy"))
    if eigenvalues[0] > 0:
        s = np.linalg.inv(c)
        bulk_reuss = 1 / s[:3, :3].sum()
        off = s[[0, 0, 1], [1, 2, 2]].sum()
        shear_reuss = 15 / (4 * np.trace(s[:3, :3]) - 4 * off + 3 * np.trace(s[3:, 3:]))
        k, g = (bulk_voigt + bulk_reuss) / 2, (shear_voigt + shear_reuss) / 2
        young, poisson = 9 * k * g / (3 * k + g), (3 * k - 2 * g) / (2 * (3 * k + g))
        values |= dict(zip(names, (bulk_reuss, shear_reuss, k, g, young, poisson), strict=True))
        values["universal_anisotropy"] = 5 * shear_voigt / shear_reuss + bulk_voigt / bulk_reuss - 6
    floats = {name: value if value is None else float(value) for name, value in values.items()}
    return {**floats, "eigenvalues": eigenvalues, "stable": bool(eigenvalues[0] > 0)}


def _warnings(start: dict, values: dict, settings: ElasticSettings) -> list[str]:
    notes = []
    stress = np.abs(start["stress"]).max() / GPA
    if stress > NOTABLE * abs(values["bulk_voigt"]):
        notes.append(
            f"the start is under {stress:.2g} GPa: these are not the constants at zero stress; use --relax"
        )
    force = np.linalg.norm(start["forces"], axis=1).max()
    if force > max(0.01, settings.fmax):
        notes.append(f"a force of {force:.2g} eV/Å acts on an atom of the start; use --relax")
    return notes


def _matrix(reference: ElasticResult, field: str) -> np.ndarray:
    """Constants (6, 6) of a reference."""
    matrix = np.asarray(getattr(reference, field), dtype=float)
    if matrix.shape != (6, 6):
        raise NumericsError(f"{field}: shape {matrix.shape} in the reference; expected (6, 6)")
    return matrix


def _constants(field: str) -> Score:
    """Mean absolute error over the elements of the upper triangle that the reference has."""

    def of(result: ElasticResult, reference: ElasticResult, settings: ElasticSettings) -> float:
        theirs = _matrix(reference, field)
        entries = np.triu(np.abs(theirs) > NEGLIGIBLE * np.abs(theirs).max())
        return float(np.abs(getattr(result, field) - theirs)[entries].mean())

    return Score("GPa", of, (field,))


def _constant(field: str, i: int, j: int) -> Score:
    """Absolute error of one constant, where it is one of ``own_constants`` of the reference."""

    def of(result: ElasticResult, reference: ElasticResult, settings: ElasticSettings) -> float:
        return float(abs(getattr(result, field)[i, j] - _matrix(reference, field)[i, j]))

    return Score("GPa", of, (field,), applies=lambda r: (i, j) in own_constants(_matrix(r, field)))


def own_constants(stiffness: np.ndarray) -> list[tuple[int, int]]:
    """Indices of the constants of a matrix (6, 6) that are not zero and repeat none of their kind.

    A kind is a block of the matrix, on the diagonal or off it: a C12 that happens to equal C44 hides neither.
    """
    least = NEGLIGIBLE * np.abs(stiffness).max()
    sizes: dict[tuple[bool, ...], list[float]] = {}
    own = []
    for i, j in combinations_with_replacement(range(6), 2):
        earlier = sizes.setdefault((i == j, i > 2, j > 2), [])
        size = abs(stiffness[i, j])
        if size > least and all(abs(size - other) > least for other in earlier):
            earlier.append(size)
            own.append((i, j))
    return own


# Each constant has a score of its own: in a mean, a large one that is right hides a small one that is wrong.
SCORES = {
    **{f"{field}_mae": _constants(field) for field in ("stiffness", "clamped")},
    "bulk_modulus_error": field_score("bulk_modulus", "GPa"),
    "shear_modulus_error": field_score("shear_modulus", "GPa"),
    **{
        f"{field}_C{i + 1}{j + 1}_error": _constant(field, i, j)
        for field in ("stiffness", "clamped")
        for i, j in combinations_with_replacement(range(6), 2)
    },
}


def plot(result: ElasticResult, others: Mapping[str, ElasticResult] = {}, label: str = "") -> Figure:
    """The distinct constants with standard errors, and Young's modulus along directions in three planes."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left = figure.add_subplot(1, 2, 1)
    right = figure.add_subplot(1, 2, 2, projection="polar")
    entries = _distinct(result.stiffness)
    rows = tuple(np.transpose(entries))
    curves = overlay(result, others, label)
    for k, (name, item, colour) in enumerate(curves):
        x = np.arange(len(entries)) + 0.4 * ((k + 0.5) / len(curves) - 0.5)
        left.plot(x, item.clamped[rows], "_", color=colour, ms=12, mew=1.5)
        left.errorbar(x, item.stiffness[rows], item.stiffness_error[rows], fmt="o", color=colour, capsize=3)
        if name:
            left.plot([], [], "o", color=colour, label=name)
        if item.stable:
            _polar(right, item.stiffness, colour)
    left.plot([], [], "o", color="grey", label="relaxed atoms")
    left.plot([], [], "_", color="grey", ms=12, mew=1.5, label="clamped atoms")
    left.axhline(0, color="grey", lw=0.6)
    left.set_xticks(range(len(entries)), [f"$C_{{{i + 1}{j + 1}}}$" for i, j in entries])
    left.set_ylabel("stiffness (GPa)")
    left.legend()
    right.set_title("Young's modulus (GPa)", fontsize="medium")
    right.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    for style, plane in zip(("-", "--", ":"), ("xy", "yz", "zx"), strict=True):
        right.plot([], [], style, color="grey", label=f"{plane} plane")
    right.legend(loc="lower left", bbox_to_anchor=(0.95, -0.1), fontsize="small")
    return figure


def _distinct(stiffness: np.ndarray) -> list[tuple[int, int]]:
    """Indices of the constants that are neither zero nor the same number as an earlier one."""
    entries: list[tuple[int, int]] = []
    sizes: list[float] = []
    scale = np.abs(stiffness).max()
    for i, j in sorted(combinations_with_replacement(range(6), 2), key=lambda e: (e[0] > 2, e[1] > 2, e)):
        size = abs(stiffness[i, j])
        if size > 1e-4 * scale and all(abs(size - other) > 1e-6 * scale for other in sizes):
            entries.append((i, j))
            sizes.append(size)
    return entries


def _polar(axes: Axes, stiffness: np.ndarray, colour: str) -> None:
    angle = np.linspace(0, 2 * np.pi, 361)
    for k, style in enumerate(("-", "--", ":")):
        n = np.zeros((3, len(angle)))
        n[k], n[(k + 1) % 3] = np.cos(angle), np.sin(angle)
        v = np.array([n[0] ** 2, n[1] ** 2, n[2] ** 2, n[1] * n[2], n[0] * n[2], n[0] * n[1]])
        axes.plot(angle, 1 / np.einsum("ax,ab,bx->x", v, np.linalg.inv(stiffness), v), style, color=colour)
