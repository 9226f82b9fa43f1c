"""Simulation programs that evaluate potentials of NFFLr: LAMMPS and torch-sim."""
