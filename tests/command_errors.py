"""What a command that fails must do: the right exit code, and one clear line on stderr."""

from __future__ import annotations

from nfflr.cli.main import run


def fails(capsys, arguments, code, *words):
    """Run ``nff``; check the exit code and that the last line of stderr names what it should."""
    assert run([str(a) for a in arguments]) == code
    stderr = capsys.readouterr().err.strip().splitlines()
    assert stderr[-1].startswith("error: ")
    assert "Traceback" not in "\n".join(stderr)
    for word in words:
        assert str(word) in stderr[-1]
    return stderr[-1]
