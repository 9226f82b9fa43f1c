"""A finished run of ``nff md`` is made longer."""

import json

import numpy as np
from ase.build import bulk
from ase.io import read

from nfflr.cli.main import run


def nff_md(*arguments):
    return run(["md", *map(str, arguments)])


def test_a_finished_run_is_made_longer_as_if_it_never_stopped(tmp_path):
    path = tmp_path / "si.xyz"
    (bulk("Si", cubic=True) * (2, 2, 1)).write(path)
    common = [
        path,
        "--model",
        "mlearn-si-fast",
        "--ensemble",
        "nvt-langevin",
        "--interval",
        5,
        "--checkpoint",
        10,
    ]
    out = tmp_path / "out"
    assert nff_md(*common, "--steps", 25, "--out", out) == 0
    first = json.loads((out / "si-md.json").read_text())
    assert nff_md(*common, "--steps", 60, "--out", out) == 2  # exists
    assert nff_md(*common, "--steps", 60, "--seed", 4, "--out", out, "--resume") == 2
    assert json.loads((out / "si-md.json").read_text()) == first
    assert nff_md(*common, "--steps", 60, "--out", out, "--resume") == 0
    assert nff_md(*common, "--steps", 60, "--out", tmp_path / "whole") == 0
    longer, whole = ((tmp_path / name / "si-md.traj").read_bytes() for name in ("out", "whole"))
    assert longer == whole
    results = [json.loads((tmp_path / n / "si-md.json").read_text())["result"] for n in ("out", "whole")]
    assert results[0] == results[1] and results[0]["steps"] == 60
    assert np.abs(read(out / "si-md.traj").get_velocities()).max() > 0
    assert nff_md(*common, "--steps", 60, "--out", out, "--resume") == 0  # nothing to do
    assert nff_md(*common, "--steps", 90, "--out", out, "--resume") == 0  # and once more
    assert nff_md(*common, "--steps", 30, "--out", out, "--resume") == 2  # not shorter
    assert nff_md(*common, "--steps", 30, "--out", out, "--overwrite") == 0
