"""Checks of labelled data: units, signs, duplicates, and whether energies agree with forces."""
