"""Workflows: one file each, a function ``(atoms, calculator, settings) -> result``."""
