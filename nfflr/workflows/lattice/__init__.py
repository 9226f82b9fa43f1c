"""Lattice dynamics shared by the phonon workflows: supercells, force constants, paths, stability."""
