"""Run the tutorials and renew their figures: ``python tutorials/run.py [1 4 …]``; default: all.

Each runs in a process and an empty folder of its own.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "figures"


def tutorials() -> list[Path]:
    """The scripts, by their number."""
    return sorted(HERE.glob("[0-9]*_*.py"), key=lambda path: int(path.name.partition("_")[0]))


def run(script: Path, folder: Path) -> subprocess.CompletedProcess:
    """Execute a tutorial in ``folder``, without a display, with the ``nff`` of this interpreter."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "MPLBACKEND": "agg", "PATH": path}
    command = [sys.executable, str(script)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def main(numbers: list[str]) -> int:
    for script in tutorials():
        if numbers and script.name.partition("_")[0] not in numbers:
            continue
        with tempfile.TemporaryDirectory() as folder:
            done = run(script, Path(folder))
            print(f"# {script.name}\n{done.stdout}", end="", flush=True)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return done.returncode
            shutil.copy(Path(folder) / f"{script.stem}.png", FIGURES)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
