"""Potentials in LAMMPS: ``attach`` for a running instance, ``nff lammps`` for the command line.

LAMMPS (Thompson et al., Comput. Phys. Commun. 271, 108171 (2022)) divides space between MPI ranks, moves the
atoms and writes the files; a potential is asked for forces by each rank through ``fix external``.
"""

from __future__ import annotations

from .external import attach, hops

__all__ = ["attach", "hops"]
