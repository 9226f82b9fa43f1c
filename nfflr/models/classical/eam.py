"""Embedded-atom method with tabulated functions, read from setfl, funcfl or Finnis–Sinclair files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from ase.calculators.eam import EAM as AseEAM
from ase.data import atomic_numbers, covalent_radii
from pydantic import Field, ValidationError
from scipy.interpolate import CubicSpline

from ...errors import ConfigError, ResourceError, StructureError
from ...nn.radial import smoothstep
from ..assemble import Inputs
from ..base import Potential, PotentialConfig
from ..registry import register
from .parameter_tables import unordered_pairs, weight

MOST_POINTS = 100_000  # of a table; published ones have at most some ten thousand
FORMS = {".alloy": "alloy", ".setfl": "alloy", ".eam": "eam", ".funcfl": "eam", ".fs": "fs"}


class EAMConfig(PotentialConfig):
    """Grids of the tables; the tables themselves are part of the model's state."""

    n_r: int = Field(501, ge=6, le=MOST_POINTS, description="points of the tables of distance")
    d_r: float = Field(0.01, gt=0, le=1e6, description="their spacing (Å)")
    n_rho: int = Field(2001, ge=5, le=MOST_POINTS, description="points of the embedding energy's table")
    d_rho: float = Field(0.02, gt=0, le=1e6, description="its spacing (unit of the density)")
    finnis_sinclair: bool = Field(False, description="densities depend on the centre's element too")
    fade: float = Field(
        1.0,
        ge=0,
        description="width below the cutoff over which tables fade to zero (Å); 0: used as they are",
    )
    source: str = Field("", description="header of the file that the tables come from")


@register("eam")
class EAM(Potential):
    """E_i = F(Σ_j f(r_ij)) + ½ Σ_j φ(r_ij), functions given as tables with cubic splines through them.

    M. S. Daw and M. I. Baskes, Phys. Rev. B 29, 6443 (1984). The splines are ASE's ("not-a-knot"), and
    so is extrapolation beyond a table. The weights are factors on the functions, one per element or
    pair: 1 is the table. Without a file (``EAM.read``) the tables are a placeholder, not a fit.
    """

    Config = EAMConfig
    config: EAMConfig
    pair_index: torch.Tensor
    embedding: torch.Tensor
    density: torch.Tensor
    pair: torch.Tensor
    fits_references = False

    def __init__(self, config: EAMConfig):
        super().__init__(config)
        n = len(config.elements)
        pairs, index = unordered_pairs(n)
        self.register_buffer("pair_index", index, persistent=False)  # (n, n) → position among P pairs
        embedding, density, pair = placeholder_tables(config)
        # Spline coefficients of each interval, highest power first.
        self.register_buffer("embedding", spline_coefficients(config.d_rho, embedding))  # (n, n_rho−1, 4)
        self.register_buffer("density", spline_coefficients(config.d_r, density))  # (n or n², n_r−1, 4)
        self.register_buffer("pair", spline_coefficients(config.d_r, pair))  # (P, n_r−2, 4), from d_r on
        self.embedding_factor = weight([1.0] * n)
        self.density_factor = weight([1.0] * len(density))
        self.pair_factor = weight([1.0] * len(pairs))

    @classmethod
    def read(cls, path: str | Path, fade: float = 0.0) -> EAM:
        """Potential, in eval mode, from a file: .alloy or .setfl, .eam or .funcfl (one element), or .fs.

        Args:
            path: the file.
            fade: see ``EAMConfig``; 0 evaluates the tables as ASE and LAMMPS do.

        Raises:
            ConfigError: unknown file type or no such file.
            StructureError: the file is not of its type, or damaged.
        """
        file = read_tables(Path(path))
        fs = file.form == "fs"
        try:
            config = cls.Config(
                elements=tuple(file.elements),
                cutoff=float(file.cutoff),
                n_r=int(file.nr),
                d_r=float(file.dr),
                n_rho=int(file.nrho),
                d_rho=float(file.drho),
                finnis_sinclair=fs,
                fade=fade,
                source="".join(file.header).strip(),
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise StructureError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        model, (pairs, _) = cls(config), unordered_pairs(len(config.elements))
        order = [file.elements.index(e) for e in config.elements]
        density = file.density_data[np.ix_(order, order)] if fs else file.density_data[order]
        rphi = np.stack([file.rphi_data[tuple(sorted((order[i], order[j])))] for i, j in pairs])
        r = np.arange(1, config.n_r) * config.d_r  # r·φ says nothing about φ at r = 0
        model.embedding.copy_(spline_coefficients(config.d_rho, file.embedded_data[order]))
        model.density.copy_(spline_coefficients(config.d_r, density.reshape(-1, config.n_r)))
        model.pair.copy_(spline_coefficients(config.d_r, rphi[:, 1:] / r))
        return model.eval()

    @classmethod
    def from_file(cls, path: Path) -> Potential:
        """As ``read``, with the tables as ASE and LAMMPS use them."""
        return cls.read(path)

    def tables(self, inputs: Inputs) -> tuple[torch.Tensor, ...]:
        return ((inputs.vectors.square().sum(1).sqrt() < self.cutoff).nonzero().squeeze(1),)

    def energies(self, inputs: Inputs) -> torch.Tensor:
        species, (near,) = inputs.species, inputs.tables  # (N,), (K,)
        r, dst = inputs.vectors.square().sum(1).sqrt()[near], inputs.dst[near]
        centre, neighbour = species[dst], species[inputs.src[near]]
        pair = self.pair_index[centre, neighbour]
        kind = neighbour * len(self.elements) + centre if self.config.finnis_sinclair else neighbour
        fade = self._fade(r)
        density = fade * self.density_factor[kind] * spline(self.density, kind, r, self.config.d_r)
        bonds = fade * self.pair_factor[pair] * spline(self.pair, pair, r, self.config.d_r, self.config.d_r)
        zeros = bonds.new_zeros(inputs.n_atoms)
        total = zeros.index_add(0, dst, density)  # (N,)
        embedding = self.embedding_factor[species] * spline(self.embedding, species, total, self.config.d_rho)
        return embedding + zeros.index_add(0, dst, bonds / 2)

    def _fade(self, r: torch.Tensor) -> torch.Tensor | float:
        if not self.config.fade:
            return 1.0
        return 1 - smoothstep(1 + (r - self.cutoff) / self.config.fade)[0]


def spline(
    table: torch.Tensor, row: torch.Tensor, x: torch.Tensor, step: float, origin: float = 0.0
) -> torch.Tensor:
    """Row ``row`` of coefficients (rows, intervals, 4) at ``x``; outside, the end intervals go on."""
    x = x - origin
    interval = (x.detach() / step).floor().clamp(0, table.shape[1] - 1).long()
    c3, c2, c1, c0 = table[row, interval].unbind(1)
    t = x - interval.to(x.dtype) * step
    return ((c3 * t + c2) * t + c1) * t + c0


def spline_coefficients(step: float, values: np.ndarray) -> torch.Tensor:
    """Not-a-knot cubic splines through rows of values (rows, points): (rows, points − 1, 4)."""
    splines = CubicSpline(np.arange(values.shape[1]) * step, values, axis=1)
    return torch.from_numpy(np.ascontiguousarray(splines.c.transpose(2, 1, 0)))


def read_tables(path: Path) -> AseEAM:
    """ASE's reader, with one line on what is wrong.

    Raises:
        ConfigError, StructureError: as ``EAM.read``.
    """
    if path.suffix not in FORMS:
        raise ConfigError(f"{path}: unknown type of EAM file; expected a name ending in {', '.join(FORMS)}")
    try:
        file = AseEAM(potential=str(path), form=FORMS[path.suffix])
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give a tabulated EAM potential") from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror}); check permissions") from error
    except Exception as error:  # what the reader trips over depends on where the file is wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StructureError(
            f"{path}: not a readable {FORMS[path.suffix]} EAM file ({reason}); fetch it again"
        ) from error
    tables = (file.embedded_data, file.density_data, file.rphi_data)
    if not all(np.isfinite(table).all() for table in tables):
        raise StructureError(f"{path}: a table holds values that are not finite; fetch the file again")
    return file


def placeholder_tables(config: EAMConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of F (n, n_rho), f (n or n², n_r) and φ (P, n_r − 1) of a second-moment metal.

    F. Cleri and V. Rosato, Phys. Rev. B 48, 22 (1993) with p = 10, q = 2.5, A = 0.1 eV, ξ = 1 eV and bonds
    as long as covalent radii say; F is shifted along ρ, so that its slope at ρ = 0 is finite.
    """
    n = len(config.elements)
    radii = np.array([covalent_radii[atomic_numbers[e]] for e in config.elements])
    rho, r = np.arange(config.n_rho) * config.d_rho, np.arange(config.n_r) * config.d_r
    embedding = np.tile(1 - np.sqrt(1 + rho), (n, 1))
    density = np.exp(-5.0 * (r / (2 * radii[:, None]) - 1))
    pairs, _ = unordered_pairs(n)
    lengths = np.array([radii[i] + radii[j] for i, j in pairs])
    pair = 0.2 * np.exp(-10.0 * (r[1:] / lengths[:, None] - 1))
    return embedding, np.repeat(density, n, axis=0) if config.finnis_sinclair else density, pair
