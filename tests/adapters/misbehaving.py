"""Calculators that are badly brought up, for the tests of what NFFLr makes of them."""

import logging
import os
import random
import warnings

import numpy as np
import torch
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT


def spoil():
    """All that a package can change of a process that is not its own."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_float32_matmul_precision("medium")
    torch.set_grad_enabled(False)
    torch.manual_seed(123)
    np.random.seed(123)
    random.seed(123)
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    os.environ["NFFLR_SPOILT"] = "1"
    Calculator.implemented_properties.append("spoilt")
    logging.root.addHandler(logging.NullHandler())
    logging.root.setLevel(logging.DEBUG)
    print("I run on cpu")


class Spoiler(EMT):
    """Spoils the process when it is made and when it is called, and the atoms it is given."""

    def __init__(self):
        super().__init__()
        spoil()

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        spoil()
        super().calculate(atoms, properties, system_changes)
        atoms.positions += 1.0
        atoms.info["spoilt"] = True


class NotFinite(EMT):
    """Energies that are no numbers."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results["forces"] = self.results["forces"] * np.nan


class Breaking(EMT):
    """Fails at every call."""

    def calculate(self, *arguments, **options):
        raise RuntimeError("no\nluck")


class Uncopied(EMT):
    """Holds what can be neither copied nor pickled, as compiled code."""

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")
