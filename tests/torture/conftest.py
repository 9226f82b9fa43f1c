"""What the torture tests share: processes that start at once, and a folder to work in."""

from pathlib import Path

import pytest
from fuzz_checkpoints import sound_checkpoint
from processes import Processes, failing_disk
from workplace import contents, fill

from nfflr.checkpoint import FILE
from nfflr.cli.main import run


@pytest.fixture(scope="session")
def processes():
    """Starts ``nff`` commands, see ``processes.Processes``."""
    with Processes() as running:
        yield running


@pytest.fixture(scope="session")
def disk():
    """Skips where the failing disk cannot be compiled."""
    if failing_disk() is None:
        pytest.skip("needs a C compiler")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The folder one works in, see ``workplace``."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails(place, capsys):
    """Runs ``nff``, which must end with this exit code and one line and change no file. Returns the line."""

    def check(arguments: list, code: int, *words) -> str:
        before = contents(place)
        assert run([str(a) for a in arguments]) == code
        stderr = capsys.readouterr().err.strip().splitlines()
        assert stderr[-1].startswith("error: ") and "Traceback" not in "\n".join(stderr)
        for word in words:
            assert str(word) in stderr[-1]
        assert contents(place) == before
        return stderr[-1]

    return check


@pytest.fixture
def path(tmp_path) -> Path:
    """Where a checkpoint may be written."""
    return tmp_path / FILE


@pytest.fixture
def content(path) -> bytes:
    """Bytes of a sound checkpoint of copper; ``path`` itself is free again."""
    whole = sound_checkpoint(path)
    path.unlink()
    return whole
