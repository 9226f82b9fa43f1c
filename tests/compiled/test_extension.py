"""C++ sources are compiled once per machine, into a folder that is the user's alone."""

import stat
import subprocess
import sys

import pytest

from nfflr.compiled import artefacts as cache

pytestmark = pytest.mark.skipif(cache.compiler() is None, reason="no C++ compiler on this machine")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return NUMBER; }')
    return path


def files(tmp_path):
    return sorted((tmp_path / "cache" / "nfflr" / "kernels").iterdir())


def test_a_source_is_compiled_once(source, tmp_path, monkeypatch):
    assert cache.load_library(source, {"NUMBER": 42}).answer() == 42
    (library,) = files(tmp_path)  # nothing temporary is left
    made = library.stat().st_mtime_ns
    monkeypatch.setattr(cache, "_build", lambda *_: pytest.fail("compiled again"))
    assert cache.load_library(source, {"NUMBER": 42}).answer() == 42
    assert library.stat().st_mtime_ns == made
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700


def test_another_source_header_macro_or_processor_is_another_library(source, tmp_path, monkeypatch):
    cache.load_library(source, {"NUMBER": 1})
    assert cache.load_library(source, {"NUMBER": 2}).answer() == 2
    source.write_text('extern "C" int answer() { return NUMBER + 5; }')
    assert cache.load_library(source, {"NUMBER": 1}).answer() == 6
    source.with_name("beside.h").write_text("// a header that the source may include")
    cache.load_library(source, {"NUMBER": 1})
    monkeypatch.setattr(cache, "_toolchain", lambda program: b"another machine")
    cache.load_library(source, {"NUMBER": 1})
    assert len(files(tmp_path)) == 5


def test_a_damaged_library_is_built_anew(source, tmp_path):
    # A process of its own each time: what is loaded already would not be read again.
    program = (
        "import pathlib, sys; from nfflr.compiled.artefacts import load_library; "
        "print(load_library(pathlib.Path(sys.argv[1]), {'NUMBER': 7}).answer())"
    )
    command = [sys.executable, "-c", program, str(source)]
    for damage in (False, True):
        if damage:
            files(tmp_path)[0].write_bytes(b"no library")
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "7"


def test_failure_is_none_and_leaves_nothing(source, tmp_path):
    source.write_text("no C++ at all")
    assert cache.load_library(source, {"NUMBER": 1}) is None
    assert files(tmp_path) == []


def test_a_folder_that_others_may_write_to_is_not_used(source, tmp_path):
    folder = tmp_path / "cache" / "nfflr" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert cache.load_library(source, {"NUMBER": 1}) is None
    assert files(tmp_path) == []
