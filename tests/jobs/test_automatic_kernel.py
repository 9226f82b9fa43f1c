"""Whether simulation commands evaluate a compiled kernel when nobody says so."""

import json

import pytest
from ase.build import bulk

from nfflr.cli.main import run
from nfflr.compiled.artefacts import compiler
from nfflr.jobs import opening

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bulk("Si").write("si.cif")
    return tmp_path


def energy(capsys, *options):
    """Output and calculator of ``nff energy`` on two atoms."""
    assert run(["energy", "si.cif", "--model", "mlearn-si-fast", "--overwrite", *options]) == 0
    with open("si-energy.json") as file:
        return capsys.readouterr().out, json.load(file)["calculator"]["compiled"]


def test_a_kernel_that_is_built_is_used_unless_refused(here, capsys):
    energy(capsys, "--compile")  # in the cache from here on
    for options, kind in (([], "kernel"), (["--no-compile"], False)):
        shown, compiled = energy(capsys, *options)
        assert compiled == kind
        assert ("compiled kernel, from the cache" in shown) == bool(kind)
        assert "/" not in shown.replace("eV/Å", "")  # no paths


def test_a_short_job_does_not_wait_for_a_compiler(here, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    shown, compiled = energy(capsys)
    assert compiled is False and "nff compile" in shown
    assert not list((here / "cache").rglob("*.so"))


@pytest.mark.parametrize(("enough", "kind"), [(0.03, "kernel"), (0.04, False)])
def test_a_long_run_builds_its_kernel(here, capsys, monkeypatch, enough, kind):
    built = []
    monkeypatch.setattr("nfflr.compiled.moment_kernel.is_built", lambda source, defines: False)
    monkeypatch.setattr(opening, "ENOUGH", enough)
    use = opening.Models._use_kernel
    monkeypatch.setattr(opening.Models, "_use_kernel", lambda *given: built.append(1) or use(*given))
    command = ["md", "si.cif", "--model", "mlearn-si-fast", "--steps", "4", "--temperature", "300"]
    assert run([*command, "--overwrite"]) in (0, 5)
    assert bool(built) == bool(kind)
    assert json.loads((here / "si-md.json").read_text())["calculator"]["compiled"] == kind


def test_an_architecture_without_a_kernel_is_not_compiled(here, capsys):
    assert run(["energy", "si.cif", "--model", "mlearn-si-alignn"]) == 0
    assert "compil" not in capsys.readouterr().out.replace("not compiled; --threads", "")
