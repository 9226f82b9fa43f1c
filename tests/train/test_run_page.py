"""The page about a run: every section, valid HTML, nothing from outside, text that stays text."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser

import ase.io
import pytest
from builders import copper
from jinja2 import ChoiceLoader, DictLoader, PackageLoader

from nfflr.checkpoint import FILE
from nfflr.cli.main import run
from nfflr.errors import ConfigError
from nfflr.reports.run_page import Grid, render, run_page

ANCHORS = [
    "learning",
    "parity",
    "tasks",
    "check",
    "validation",
    "data",
    "model",
    "settings",
    "origin",
    "licence",
]
VOID = {"meta", "img", "br", "link", "input", "hr"}
CONFIG = """
from pathlib import Path
from nfflr.data.dataset import AtomsDataset
from nfflr.models.gnn.schnet import SchNet, SchNetConfig

here = Path(__file__).parent
dataset = AtomsDataset(here / "copper.xyz", {target}n_train=8, n_val=2, seed=3)
model = SchNet(SchNetConfig(elements=("Cu",), cutoff=4.0{model}))
output_dir = here / "run"
progress, epochs, batch_size, validate_every = False, 2, 4, 1
notes = {{"citation": "A & B, doi 10.1000/<x>"}}
"""


class Parsed(HTMLParser):
    """Balanced tags, attributes, texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, name):
        return [value for _, key, value in self.attributes if key == name]


def trained(folder, target="", model=""):
    frames = copper(12)
    for k, atoms in enumerate(frames):
        atoms.info["group"] = "<i>hot</i> $a" if k % 2 else "cold"
        atoms.info["gap"], atoms.info["kind"] = 0.1 * k, "<b>" if k % 2 else "metal"
    ase.io.write(folder / "copper.xyz", frames)
    (folder / "config.py").write_text(CONFIG.format(target=target, model=model))
    assert run(["train", str(folder / "config.py")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a run whose record knows where its data are."""
    return shutil.copytree(finished, tmp_path / "run")


def section(text: str, anchor: str) -> str:
    return re.search(rf'<section id="{anchor}">(.*?)</section>', text, re.S)[1]


def assert_self_contained(text: str) -> None:
    parsed = Parsed(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(parsed.tags)
    assert all(source.startswith("data:image/png;base64,") for source in parsed.values("src"))
    assert all(link[1:] in parsed.values("id") for link in parsed.values("href"))
    assert all(link.startswith("#") for link in parsed.values("href"))
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
    style = re.search("<style>(.*?)</style>", text, re.S)[1]
    assert "url(" not in style and "@import" not in style


def test_the_page_has_every_section_and_needs_nothing_else(folder, capsys):
    assert run(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert_self_contained(text)
    assert [m for m in re.findall('<section id="(.*?)">', text)] == ANCHORS
    parity = section(text, "parity")
    assert "Validation split: 2 structures" in parity and "Test split: 2 structures" in parity
    assert parity.count("<img") == 6 and section(text, "learning").count("<img") == 4
    assert "nff train" in section(text, "origin") and "torch" in section(text, "origin")
    assert "schnet" in section(text, "model") and "learning_rate" in section(text, "settings")
    assert "A &amp; B, doi 10.1000/&lt;x&gt;" in section(text, "licence")
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_the_errors_beside_the_parity_plots_are_those_of_the_checkpoint(folder):
    from nfflr.checkpoint import load_checkpoint

    scores = load_checkpoint(folder / FILE)[1]["scores"]
    text = section(run_page(folder), "parity").split("Test split")[0]
    told = dict(re.findall(r"<th>([^<]*)</th><td>([^<]*)</td>", text))
    assert float(told["E MAE (meV/atom)"]) == pytest.approx(scores["val/energy_mae"] * 1e3, rel=2e-3)
    assert float(told["F RMSE (meV/Å)"]) == pytest.approx(scores["val/forces_rmse"] * 1e3, rel=2e-3)


def test_names_in_data_and_results_stay_text(folder):
    bad = "<script>alert(1)</script>\x00\"'"
    check = {"name": bad, "passed": False, "value": 1.0, "message": bad}
    (folder / "x-check.json").write_text(json.dumps({"checks": [check], "calculator": {"digest": "other"}}))
    record = json.loads((folder / "run.json").read_text())
    record["command"], record["settings"][bad] = bad, bad
    (folder / "run.json").write_text(json.dumps(record))
    text = run_page(folder)
    assert_self_contained(text)
    assert "<script" not in text and "\x00" not in text
    assert section(text, "check").count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert section(text, "settings").count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "another checkpoint" in section(text, "check")


@pytest.mark.parametrize("piece", ["muted(bad)", "facts([(bad, bad)])", "pairs([(bad, bad)])", "grid(table)"])
def test_pieces_escape_what_they_are_given(piece, monkeypatch):
    bad = '"><img src=x onerror=y>'
    source = "{% extends 'page.html' %}{% from 'pieces.html' import muted, facts, pairs, grid %}"
    source += f"{{% block a %}}{{{{ {piece} }}}}{{% endblock %}}"
    loader = ChoiceLoader([DictLoader({"attack.html": source}), PackageLoader("nfflr.reports")])
    monkeypatch.setattr("jinja2.PackageLoader", lambda name: loader)
    text = render("attack.html", title=bad, sections={"a": bad}, bad=bad, table=Grid([bad], [[bad]]))
    assert_self_contained(text)
    times = 1 if piece == "muted(bad)" else 2
    assert text.count("&#34;&gt;&lt;img src=x onerror=y&gt;") == 4 + times and "<img" not in text


def test_task_scores_over_epochs_have_curves_where_they_were_measured(folder):
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    scores = {
        "phonons/frequency_mae": ("0.5", "0.25"),
        "hot/lost_fraction": ("", "0"),
        "hot/failed": ("1", "0"),
    }
    for name, values in {**scores, "tasks/coverage": ("0.5", "1")}.items():
        for row, value in zip(rows, values, strict=True):
            row[f"val/{name}"] = value
    with open(folder / "metrics.csv", "w") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    tasks = section(run_page(folder), "tasks")
    assert tasks.count("<img") == 1 and "phonons/frequency_mae against epoch" in tasks and "0.25" in tasks
    assert "2 rounds; 75% of the tasks were scored" in tasks and "hot/failed" not in tasks
    failed = [re.findall(r">([^<>]+)</td>", row)[-1] for row in tasks.split("<tr>") if "</td>" in row]
    assert failed == ["0", "1"]  # of phonons and hot


def test_results_of_check_and_validate_become_tables(folder, tmp_path):
    checks = [{"name": "forces", "passed": True, "value": 3e-9}, {"name": "drift", "passed": False}]
    (folder / "m-check.json").write_text(json.dumps({"checks": checks}))
    other = tmp_path / "given.json"
    other.write_text(json.dumps({"tasks": {"phonons": {"scores": {"metrics/mae": 0.5}}}}))
    text = run_page(folder, validations=[other])
    check, validation = section(text, "check"), section(text, "validation")
    assert ">pass<" in check and ">fail<" in check and ">3e-09<" in check
    assert "metrics/mae" in validation and ">0.5<" in validation and "phonons" in validation


def test_a_check_has_its_verdict_and_its_limit_with_the_side_it_is_on(folder):
    wall = {"name": "wall", "status": "pass", "passed": True, "value": 9.0, "limit": 3.0, "at_least": True}
    drift = {
        "name": "drift",
        "status": "fail",
        "passed": False,
        "value": 2.0,
        "limit": 1.0,
        "at_least": False,
    }
    (folder / "m-check.json").write_text(json.dumps({"checks": [wall, drift]}))
    table = section(run_page(folder), "check")
    assert ">≥ 3<" in table and ">≤ 1<" in table and "at_least" not in table
    assert table.count('class="pass"') == 1 and table.count('class="fail"') == 1


def test_a_validation_has_a_row_for_each_score_with_its_limit_and_unit(folder):
    task = {"status": "scored", "scores": {"mae": 0.25, "max": None}, "limits": {"mae": 0.5}}
    record = {"tasks": {"phonons": {**task, "units": {"mae": "THz"}, "settings": {"mesh": 8}}}}
    (folder / "m-validate.json").write_text(json.dumps(record))
    table = section(run_page(folder), "validation")
    rows = [re.findall(r">([^<>]*)</td>", row) for row in table.split("<tr>") if "</td>" in row]
    assert rows[0] == ["phonons", "scored", "mae", "0.25", "0.5", "THz", ""] and rows[1][:3] == [
        "phonons",
        "scored",
        "max",
    ]
    assert "mesh" not in table


def test_data_that_moved_are_found_by_their_digest_and_changed_data_are_not_used(folder, tmp_path):
    record = json.loads((folder / "run.json").read_text())
    source = record["data"]["origin"]["source"]
    moved = shutil.copy(source, tmp_path / "moved.xyz")
    record["data"]["origin"]["source"] = str(tmp_path / "gone.xyz")
    (folder / "run.json").write_text(json.dumps(record))
    assert "--data" in section(run_page(folder), "parity")
    assert "Test split: 2" in section(run_page(folder, moved), "parity")
    ase.io.write(tmp_path / "gone.xyz", copper(12, seed=5))
    parity = section(run_page(folder), "parity")
    assert "changed" in parity and "<img" not in parity
    (tmp_path / "gone.xyz").write_text("2\nno structure\n")
    parity = section(run_page(folder), "parity")
    assert "cannot be read" in parity and "gone.xyz" in parity


def test_a_run_without_record_is_compared_with_the_data_that_are_given(folder, tmp_path):
    (folder / "run.json").unlink()
    text = run_page(folder)
    assert_self_contained(text)
    assert "<img" not in section(text, "parity") and "no run.json" in section(text, "settings")
    frames = copper(3, seed=4)
    for atoms in frames:
        del atoms.calc.results["stress"]
    ase.io.write(tmp_path / "other.xyz", frames)
    parity = section(run_page(folder, tmp_path / "other.xyz"), "parity")
    assert "other.xyz: 3 structures" in parity and parity.count("<img") == 2
    assert "GPa" not in re.sub(r'src="data:[^"]*"', "", parity)  # an image may hold any three letters


def test_runs_of_properties_have_their_plots(tmp_path):
    model = ', readout="mean", output_features={"gap": 1, "kind": 2}'
    folder = trained(tmp_path, '("gap", "kind"), ', model)
    text = run_page(folder)
    assert_self_contained(text)
    parity = section(text, "parity")
    assert parity.count("<img") == 4 and "gap MAE" in parity and "kind accuracy" in parity
    assert "predicts kind" in section(text, "model") and "&lt;b&gt;" in section(text, "model")


def test_the_record_tells_command_data_and_times(finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["command"].startswith("nff train ") and record["resumed"] == 0
    assert record["finished"] >= record["started"] and record["wall_time_s"] > 0
    assert record["data"]["split"] == {"train": 8, "val": 2, "test": 2}
    assert re.fullmatch("[0-9a-f]{64}", record["data"]["sha256"]["source"])
    assert run(["train", str(finished.parent / "config.py"), "--resume"]) == 0
    again = json.loads((finished / "run.json").read_text())
    assert again["resumed"] == 1 and again["started"] == record["started"]
    assert again["command"] == record["command"]


@pytest.mark.parametrize("content", ["", "epoch,step\n1,2\n", "epoch,train/loss,val/loss\n1,a,2\n"])
def test_metrics_that_are_none_are_refused(folder, content):
    (folder / "metrics.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"metrics\.csv"):
        run_page(folder)


def test_refusals_are_one_line_each_with_its_code(folder, tmp_path, capfd):
    def refused(code, part, *arguments):
        assert run(["report", *map(str, arguments)]) == code
        text = capfd.readouterr().err.strip()
        assert text.count("\n") == 0 and text.startswith("error:") and part in text

    (tmp_path / "empty").mkdir()
    refused(2, "no such folder", tmp_path / "none")
    refused(2, "not a run", tmp_path / "empty")
    refused(2, "no such file", folder, "--data", tmp_path / "none.xyz")
    refused(2, "none.json", folder, "--check", tmp_path / "none.json")
    assert not (folder / "report.html").exists() and not list((tmp_path / "empty").iterdir())
    (folder / "report.html").write_text("mine")
    refused(2, "exists", folder)
    assert (folder / "report.html").read_text() == "mine"
    (folder / "run.json").write_text("{")
    refused(2, "run.json", folder, "--overwrite")
    content = bytearray((folder / FILE).read_bytes())
    content[-1] ^= 1
    (folder / FILE).write_bytes(bytes(content))
    refused(4, FILE, folder, "--overwrite")
    assert (folder / "report.html").read_text() == "mine"


def test_a_page_is_replaced_on_request_and_the_same_twice(folder, tmp_path):
    (folder / "report.html").write_text("old")
    assert run(["report", str(folder), "--overwrite"]) == 0
    assert run(["report", str(folder), "--out", str(tmp_path / "pages")]) == 0
    assert (folder / "report.html").read_bytes() == (tmp_path / "pages" / "report.html").read_bytes()
