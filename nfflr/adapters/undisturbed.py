"""Other packages' code, run so that the process is afterwards as it was."""

from __future__ import annotations

import io
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
from ase.calculators.calculator import Calculator


@contextmanager
def undisturbed(ambient: str | None = None) -> Iterator[None]:
    """Put back what the code inside changes of the process's state, which is not its own.

    That is torch's default dtype and device, gradient mode, threads and matmul precision, the generators of
    torch, numpy and Python, warning filters, the environment, the root logger, and the list of properties of
    ASE's base class, which MACE extends. Inside, gradients are on, ``ambient`` is the default dtype if it is
    given, and warnings and what is printed are dropped.
    """
    import torch  # here, so that names of packages are listed without it

    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    precision, generators = torch.get_float32_matmul_precision(), torch.random.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the generator that others may use
    python_state, floats = random.getstate(), np.geterr()
    environment, properties = dict(os.environ), list(Calculator.implemented_properties)
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(io.StringIO()),
        ):
            if ambient is not None:
                torch.set_default_dtype(getattr(torch, ambient))
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        torch.random.set_rng_state(generators)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        np.seterr(**floats)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        Calculator.implemented_properties[:] = properties
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
