"""Simulation programs that evaluate potentials of NFFLr: LAMMPS, i-PI and torch-sim.

An engine's file knows the program; its command is in ``nfflr.cli``, under another file name.
"""
