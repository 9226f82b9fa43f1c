"""Simulation programs that evaluate potentials of NFFLr: LAMMPS, i-PI and torch-sim."""
