"""Every kind of source: read, told apart, in the right units; and bad input refused by file and record."""

import gzip
import json
import lzma
import shutil
import sys
import types
import zipfile
from pathlib import Path

import ase
import ase.io
import ase.units
import numpy as np
import pytest
from ase.db import connect
from builders import copper

from nfflr.data import sources
from nfflr.data.dataset import AtomsDataset
from nfflr.data.records import read_records
from nfflr.data.sources.lmdb_store import write_lmdb
from nfflr.errors import ConfigError, NFFLrError, StructureError

JARVIS = Path(__file__).parent / "jarvis"
VASP = Path(ase.__file__).parent / "test" / "testdata" / "vasp"
FF = {"energy_units": "eV", "allow_duplicates": True}


def jarvis_record(atoms, k):
    """A structure in JARVIS form, labels in eV, eV/Å and kbar with VASP's sign."""
    frame = {
        "lattice_mat": atoms.cell.array.tolist(),
        "coords": atoms.get_scaled_positions(wrap=False).tolist(),
        "elements": list(atoms.symbols),
        "cartesian": False,
    }
    labels = {"total_energy": atoms.get_potential_energy(), "forces": atoms.calc.results["forces"].tolist()}
    stress = (-atoms.get_stress(voigt=False) / ase.units.GPa * 10).tolist()
    more = {name: np.asarray(value).tolist() for name, value in atoms.info.items()}
    return {"jid": f"Cu-{k}", "atoms": frame, **labels, "stresses": stress, "gap": 0.5 * k, **more}


def jarvis_json(folder, structures):
    path = folder / "copper.json"
    path.write_text(json.dumps([jarvis_record(a, k) for k, a in enumerate(structures)]))
    return path


def json_lines(folder, structures):
    path = folder / "copper.jsonl"
    path.write_text("".join(json.dumps(jarvis_record(a, k)) + "\n" for k, a in enumerate(structures)))
    return path


def id_prop_json(folder, structures):
    jarvis_json(folder, structures).rename(folder / "id_prop.json")
    return folder


def id_prop_csv(folder, structures):
    rows = ["name,total_energy,gap"]
    for k, atoms in enumerate(structures):
        ase.io.write(folder / f"POSCAR-{k}", atoms, format="vasp", direct=True)
        rows.append(f"POSCAR-{k},{float(atoms.get_potential_energy())!r},{0.5 * k}")
    (folder / "id_prop.csv").write_text("\n".join(rows) + "\n")
    return folder


def extended_xyz(folder, structures):
    for k, atoms in enumerate(structures):
        atoms.info["gap"] = 0.5 * k
    ase.io.write(folder / "copper.xyz", structures)
    return folder / "copper.xyz"


def ase_database(folder, structures):
    with connect(folder / "copper.db") as database:
        for k, atoms in enumerate(structures):
            database.write(atoms, gap=0.5 * k, data=atoms.info)
    return folder / "copper.db"


def ase_json(folder, structures):
    with connect(folder / "copper.json") as database:
        for k, atoms in enumerate(structures):
            database.write(atoms, gap=0.5 * k, data=atoms.info)
    return folder / "copper.json"


def lmdb_file(folder, structures):
    for k, atoms in enumerate(structures):
        atoms.info["gap"] = 0.5 * k
    write_lmdb(folder / "copper.lmdb", structures)
    return folder / "copper.lmdb"


def in_memory(folder, structures):
    for k, atoms in enumerate(structures):
        atoms.info["gap"] = 0.5 * k
    return structures


WRITERS = [
    jarvis_json,
    json_lines,
    id_prop_json,
    id_prop_csv,
    extended_xyz,
    ase_database,
    ase_json,
    lmdb_file,
]
WRITERS += [in_memory]
KBAR = {"stress_units": "kbar", "stress_sign": -1}


@pytest.mark.parametrize("write", WRITERS, ids=lambda f: f.__name__)
def test_every_source_gives_the_same_structures_and_labels(tmp_path, write):
    structures = copper(6)
    jarvis = "json" in write.__name__ and write is not ase_json
    source = write(tmp_path, copper(6))
    labels = ("total_energy", "gap") if write is id_prop_csv else ("total_energy", "forces", "stress", "gap")
    records = read_records(source, labels, energy_units="eV", **(KBAR if jarvis else {}))
    assert len(records) == 6
    for k, (record, atoms) in enumerate(zip(records, structures, strict=True)):
        assert record.atoms.numbers.tolist() == atoms.numbers.tolist() and record.atoms.pbc.all()
        assert record.atoms.positions == pytest.approx(atoms.positions, abs=1e-7)
        assert record.atoms.cell.array == pytest.approx(atoms.cell.array, abs=1e-7)
        assert record.labels["total_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        assert record.labels["gap"] == pytest.approx(0.5 * k)
        if "forces" in labels:
            assert record.labels["forces"] == pytest.approx(atoms.get_forces(), abs=1e-7)
            assert record.labels["stress"] == pytest.approx(atoms.get_stress(voigt=False), abs=1e-9)
    assert set(record.labels) == set(labels) and len({r.id for r in records}) == 6


def test_a_source_is_added_by_one_file(tmp_path, monkeypatch):
    (tmp_path / "quarter.py").write_text(
        "import ase\nfrom nfflr.data.sources import Entry\n"
        "KEYS = {'total_energy': ('e',)}\nENERGY_UNITS = 'Ha'\nSTRESS = None\n"
        "def opens(source):\n    return source == 'quarter:3'\n"
        "def read(source, wanted=None):\n"
        "    return [Entry(f'quarter[{k}]', 'all', ase.Atoms('H'), {'e': k}) for k in range(3)]\n"
    )
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    records = read_records("quarter:3", ("total_energy",))
    assert [float(r.labels["total_energy"]) for r in records] == pytest.approx(
        [0, 27.2114, 54.4228], rel=1e-5
    )
    sys.modules.pop("nfflr.data.sources.quarter")


# --- JARVIS form -----------------------------------------------------------------------------------------


def test_real_frames_in_kbar_have_energies_per_cell_and_sensible_stress():
    dataset = AtomsDataset(JARVIS / "ff" / "id_prop.json", **FF, stress_units="kbar", stress_sign=-1)
    record, raw = dataset.records[0], json.loads((JARVIS / "ff" / "id_prop.json").read_text())[0]
    assert record.id == "id_prop.json[0:15607]" and len(dataset) == 12
    assert float(record.labels["total_energy"]) == raw["total_energy"]
    assert record.labels["forces"].tolist() == raw["forces"]
    # 10 kbar = 1 GPa = 1/160.21766 eV/Å³; VASP counts pressure positive
    assert record.labels["stress"] == pytest.approx(-np.array(raw["stresses"]) / 1602.1766, rel=1e-6)


def test_real_fractional_coordinates_are_those_of_the_poscar():
    rows = read_records(JARVIS / "crystal_property", ("target",))
    items = read_records(JARVIS / "jarvis_records.json", ("ehull",))
    (csv,) = [r for r in rows if "JVASP-10." in r.id]
    (json_,) = [r for r in items if r.id.endswith(":JVASP-10]")]
    distances = [a.get_all_distances(mic=True) for a in (csv.atoms, json_.atoms)]
    assert distances[0] == pytest.approx(distances[1], abs=1e-5)
    assert csv.atoms.symbols.get_chemical_formula() == json_.atoms.symbols.get_chemical_formula()


@pytest.mark.parametrize("source", [JARVIS / "ff" / "id_prop.json", JARVIS / "ff"], ids=["file", "folder"])
@pytest.mark.parametrize("target", ["total_energy", "energy_and_forces"])
def test_per_cell_or_per_atom_is_asked_and_never_guessed(source, target):
    with pytest.raises(ConfigError, match="per cell or per atom") as caught:
        AtomsDataset(source, target)
    assert caught.value.exit_code == 2 and "'eV'" in str(caught.value) and "'eV/atom'" in str(caught.value)


def test_stresses_without_a_unit_are_left_out_with_one_line(caplog):
    dataset = AtomsDataset(JARVIS / "ff", **FF)
    assert {"total_energy", "forces"} == set(dataset.records[0].labels)
    (line,) = [r.getMessage() for r in caplog.records]
    assert "stresses are left out" in line and "stress_units" in line
    with pytest.raises(ConfigError, match="stress_sign"):
        AtomsDataset(JARVIS / "ff", **FF, stress_units="kbar")


@pytest.mark.parametrize(
    "units, energy, forces",
    [
        ("eV", 1, 1),
        ("eV/atom", 10, 1),  # ten atoms; forces are in eV/Å already
        ("Ha", 27.211386, 27.211386),
        ("kcal/mol", 0.0433641, 0.0433641),
    ],
)
def test_energy_units_scale_energies_and_forces(units, energy, forces):
    plain = read_records(JARVIS / "ff", ("total_energy", "forces"), energy_units="eV")[0].labels
    scaled = read_records(JARVIS / "ff", ("total_energy", "forces"), energy_units=units)[0].labels
    assert scaled["total_energy"] == pytest.approx(energy * plain["total_energy"], rel=1e-6)
    assert scaled["forces"] == pytest.approx(forces * plain["forces"], rel=1e-6)


def test_the_order_of_six_stresses_is_explicit(tmp_path):
    (atoms,) = copper(1)
    xx, yy, zz, yz, xz, xy = atoms.get_stress()
    orders = {"voigt": [xx, yy, zz, yz, xz, xy], "vasp": [xx, yy, zz, xy, yz, xz]}
    units = {"energy_units": "eV", "stress_units": "eV/Å^3", "stress_sign": 1}
    for order, numbers in orders.items():
        path = tmp_path / f"{order}.json"
        path.write_text(json.dumps([{**jarvis_record(atoms, 0), "stresses": numbers}]))
        (record,) = read_records(path, **units, stress_order=order)
        assert record.labels["stress"] == pytest.approx(atoms.get_stress(voigt=False), abs=0)
        with pytest.raises(ConfigError, match="stress_order"):
            read_records(path, **units)
    with pytest.raises(StructureError, match=r"copper|vasp\.json\[0:Cu-0\]: stress has shape \(6,\)"):
        AtomsDataset(path, n_train=1, n_val=0, **units, stress_order="3x3")


def test_cartesian_coordinates_one_record_per_line_in_json_and_single_objects(tmp_path):
    structures = copper(3)
    frames = [jarvis_record(a, k) for k, a in enumerate(structures)]
    for frame, atoms in zip(frames, structures, strict=True):
        frame["atoms"] |= {"cartesian": True, "coords": atoms.positions.tolist()}
    (tmp_path / "lines.json").write_text("\n".join(json.dumps(f) for f in frames))
    (tmp_path / "one.json").write_text(json.dumps(frames[0], indent=1))
    (tmp_path / "pretty.json").write_text(json.dumps(frames, indent=1))
    for name, count in (("lines.json", 3), ("one.json", 1), ("pretty.json", 3)):
        records = read_records(tmp_path / name, ("gap",))
        assert len(records) == count
        assert records[-1].atoms.positions == pytest.approx(structures[count - 1].positions, abs=0)


@pytest.mark.parametrize("ending", ["gz", "xz", "zip"])
@pytest.mark.parametrize("write", [jarvis_json, json_lines], ids=lambda f: f.__name__)
def test_compressed_json(tmp_path, write, ending):
    path = write(tmp_path, copper(3))
    packed = path.with_name(f"{path.name}.{ending}")
    if ending == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(path, path.name)
    else:
        packed.write_bytes({"gz": gzip, "xz": lzma}[ending].compress(path.read_bytes()))
    assert [float(r.labels["gap"]) for r in read_records(packed, ("gap",))] == [0.0, 0.5, 1.0]
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StructureError, match=f"copper.*{ending}: cannot be unpacked"):
        read_records(packed, ("gap",))


# --- JARVIS names ----------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nfflr" / "jarvis"


def instruction(error) -> tuple[str, Path]:
    """The address and the place that a message tells the user."""
    words = str(error).split()
    return words[words.index("download") + 1], Path(words[words.index("as") + 1].rstrip(","))


def without_jarvis_tools(monkeypatch):
    monkeypatch.setitem(sys.modules, "jarvis", None)


def test_a_jarvis_name_offline_says_what_to_download_and_reads_it_from_there(cache, monkeypatch):
    without_jarvis_tools(monkeypatch)
    with pytest.raises(StructureError, match="dft_3d: this JARVIS data set is not on this machine") as caught:
        AtomsDataset("dft_3d", "formation_energy_peratom")
    assert caught.value.exit_code == 3 and "nfflr[jarvis]" in str(caught.value) and not cache.exists()
    address, place = instruction(caught.value)
    assert address.startswith("https://ndownloader.figshare.com/files/") and cache in place.parents
    place.parent.mkdir(parents=True)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(JARVIS / "jarvis_records.json", place.name.removesuffix(".zip"))
    dataset = AtomsDataset("dft_3d", "formation_energy_peratom", allow_missing=True)
    assert len(dataset) == 30 and dataset.targets == ("formation_energy_peratom",)


def fake_jarvis_tools(monkeypatch, request):
    """jarvis-tools as far as it is used: its table and its download."""
    figshare = types.SimpleNamespace(
        get_db_info=lambda: {"toy_2d": ["https://example.org/1", "toy.json", "", ""]},
        get_request_data=request,
    )
    package = types.ModuleType("jarvis")
    package.db = types.ModuleType("jarvis.db")
    package.db.figshare = figshare
    monkeypatch.setitem(sys.modules, "jarvis", package)
    monkeypatch.setitem(sys.modules, "jarvis.db", package.db)
    monkeypatch.setitem(sys.modules, "jarvis.db.figshare", figshare)


def test_jarvis_tools_fetches_once_into_the_cache(cache, monkeypatch, capsys):
    calls = []

    def request(js_tag, url, store_dir):
        calls.append(url)
        print("Loading the zipfile...")
        with zipfile.ZipFile(Path(store_dir) / f"{js_tag}.zip", "w") as archive:
            archive.write(JARVIS / "jarvis_records.json", js_tag)

    fake_jarvis_tools(monkeypatch, request)
    for _ in range(2):
        assert len(AtomsDataset("toy_2d", "optb88vdw_bandgap", allow_missing=True)) == 30
    assert calls == ["https://example.org/1"] and capsys.readouterr().out == ""
    assert [p.name for p in (cache / "toy_2d").iterdir()] == ["toy.json.zip"]


def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(cache, monkeypatch):
    def request(js_tag, url, store_dir):
        (Path(store_dir) / f"{js_tag}.zip").write_bytes(b"half")
        raise OSError("no route to host")

    fake_jarvis_tools(monkeypatch, request)
    with pytest.raises(StructureError, match="toy_2d: cannot be downloaded .*no route to host") as caught:
        AtomsDataset("toy_2d", "gap")
    assert instruction(caught.value)[1] == cache / "toy_2d" / "toy.json.zip"
    assert not (cache / "toy_2d").exists()


def test_a_name_that_nobody_knows_is_a_missing_file(monkeypatch):
    without_jarvis_tools(monkeypatch)
    with pytest.raises(ConfigError, match="dft_33d: no such file"):
        AtomsDataset("dft_33d", "gap")
    with pytest.raises(ConfigError, match="got a int"):
        AtomsDataset(3, "gap")


# --- id_prop folders -------------------------------------------------------------------------------------


def test_real_band_gaps_from_a_folder_without_header():
    dataset = AtomsDataset(JARVIS / "crystal_property", "target", n_train=12, n_val=4, allow_duplicates=True)
    rows = (JARVIS / "crystal_property" / "id_prop.csv").read_text().splitlines()
    assert [float(r.labels["target"]) for r in dataset.records] == [float(r.split(",")[1]) for r in rows]
    named = AtomsDataset(
        JARVIS / "crystal_property", "gap", keys={"gap": "target"}, n_train=12, n_val=4, allow_duplicates=True
    )
    assert named.targets == ("gap",)
    with pytest.raises(StructureError, match="crystal_property: no record holds 'gap'; it holds target"):
        AtomsDataset(JARVIS / "crystal_property", "gap")


def test_several_values_without_header_are_a_vector_and_cif_and_xyz_are_read(tmp_path):
    structures = copper(3)
    for name, atoms in zip(("a.cif", "b.xyz", "c.vasp"), structures, strict=True):
        atoms.positions += 0.5
        ase.io.write(tmp_path / name, atoms)
    (tmp_path / "id_prop.csv").write_text("a.cif,1,2,3\nb.xyz,4,5,6\nc,7,8,9\n")
    records = read_records(tmp_path, ("target",))
    assert [r.labels["target"].tolist() for r in records] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    for record, atoms in zip(records, structures, strict=True):
        assert record.atoms.positions == pytest.approx(atoms.positions, abs=1e-6)


def test_id_prop_json_may_name_structure_files(tmp_path):
    (atoms,) = copper(1)
    ase.io.write(tmp_path / "JVASP-1.vasp", atoms)
    (tmp_path / "id_prop.json").write_text(json.dumps([{"jid": "JVASP-1", "gap": 2.0}]))
    (record,) = read_records(tmp_path, ("gap",))
    assert record.atoms.positions == pytest.approx(atoms.positions) and float(record.labels["gap"]) == 2.0


# --- VASP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vasprun_pstress.xml", "OUTCAR_example_1"])
def test_real_vasp_output_plain_and_compressed(tmp_path, name):
    (reference,) = ase.io.read(VASP / name, index=":")
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((VASP / name).read_bytes()))
    for path in (VASP / name, packed):
        (record,) = read_records(path)
        assert float(record.labels["total_energy"]) == reference.get_potential_energy()
        assert record.labels["forces"] == pytest.approx(reference.get_forces(), abs=0)
        assert record.labels["stress"] == pytest.approx(reference.get_stress(voigt=False), abs=1e-12)
        (free,) = read_records(path, keys={"total_energy": "free_energy"})
        assert float(free.labels["total_energy"]) == reference.calc.results["free_energy"]


@pytest.mark.parametrize("name", ["vasprun_pstress.xml", "OUTCAR_example_1"])
def test_truncated_vasp_output_is_refused_wherever_it_is_cut(tmp_path, name):
    whole = (VASP / name).read_bytes()
    end = whole.rindex({"v": b"</modeling>", "O": b"General timing"}[name[0]])
    path = tmp_path / name
    for cut in [*np.linspace(100, end, 12).astype(int), end - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(StructureError, match=name):
            read_records(path)


# --- bad input -------------------------------------------------------------------------------------------


def cut(source):
    """The main file of a source, cut in the middle."""
    path = main_file(source)
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])


def main_file(source):
    return next(p for p in (source, source / "id_prop.csv", source / "id_prop.json") if p.is_file())


def copper_frames(change=None):
    structures = copper(12)
    for k, atoms in enumerate(structures):
        atoms.info["spectrum"] = np.arange(3.0) + k
    if change:
        change(structures[5])
    return structures


FILES = [w for w in WRITERS if w is not in_memory]


def refused(source, *words, code=3, **options):
    options = {"energy_units": "eV", "n_train": 6, "n_val": 2, **options}
    with pytest.raises(NFFLrError) as caught:
        AtomsDataset(source, diskcache=True, **options)
    message = str(caught.value)
    assert caught.value.exit_code == code and "\n" not in message
    for word in words:
        assert str(word) in message
    return message


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """A cache folder that must not exist at the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    yield folder
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("write", FILES, ids=lambda f: f.__name__)
def test_a_truncated_file_is_refused(no_cache, write):
    source = write(no_cache, copper_frames())
    cut(source)
    refused(source, main_file(source).name, target="gap")


@pytest.mark.parametrize("write", WRITERS, ids=lambda f: f.__name__)
def test_an_unknown_key_names_the_file_and_the_nearest(no_cache, write):
    source = write(no_cache, copper_frames())
    name = "structures" if write is in_memory else source.name
    refused(source, name, "'gapp'", "did you mean 'gap'?", target="gapp")
    refused(source, "target: got 'total_enrgy'", "'total_energy'?", code=2, target="total_enrgy")


def lengthen_forces(atoms):
    atoms.calc.results["forces"] = np.zeros((len(atoms) + 1, 3))


def lengthen_spectrum(atoms):
    atoms.info["spectrum"] = np.arange(4.0)


def divide_energy(atoms):
    atoms.calc.results["energy"] /= len(atoms)


@pytest.mark.parametrize("write", WRITERS, ids=lambda f: f.__name__)
def test_a_label_of_the_wrong_length_names_the_record(no_cache, write):
    source = write(no_cache, copper_frames(lengthen_spectrum))
    if write is id_prop_csv:
        rows = main_file(source).read_text().splitlines()
        main_file(source).write_text("\n".join([*rows[:6], f"{rows[6]},7", *rows[7:]]))
        refused(source, "id_prop.csv: line 7: 4 columns, expected 3", target="gap")
        return
    name = "structures" if write is in_memory else main_file(source).name
    refused(source, f"{name}[5", "a vector of length 4, elsewhere a vector of length 3", target="spectrum")


@pytest.mark.parametrize(
    "write", [jarvis_json, json_lines, id_prop_json, lmdb_file, in_memory], ids=lambda f: f.__name__
)
def test_forces_of_the_wrong_length_name_the_record(no_cache, write):  # ASE does not write such files
    source = write(no_cache, copper_frames(lengthen_forces))
    name = "structures" if write is in_memory else main_file(source).name
    refused(source, f"{name}[5", "forces has shape (9, 3), expected (8, 3)")


@pytest.mark.parametrize("write", WRITERS, ids=lambda f: f.__name__)
def test_mixed_units_name_the_record(no_cache, write):
    source = write(no_cache, copper_frames(divide_energy))
    name = "structures" if write is in_memory else main_file(source).name
    ident = "[POSCAR-5]" if write is id_prop_csv else "[5"
    refused(source, f"{name}{ident}", "units are mixed", target="total_energy")


@pytest.mark.parametrize("write", [jarvis_json, json_lines, id_prop_json], ids=lambda f: f.__name__)
@pytest.mark.parametrize("key", ["coords", "lattice_mat", "elements"])
def test_a_record_without_part_of_its_structure_is_named(no_cache, write, key):
    source = write(no_cache, copper_frames())
    path = main_file(source)
    before, _, after = path.read_text().rpartition(f'"{key}"')
    path.write_text(f'{before}"{key}2"{after}')
    where = "line 12" if write is json_lines else "record 11"
    refused(source, f"{path.name}: {where} (Cu-11): atoms without '{key}'")


SPOILT = {
    "no structure": (lambda r: r.pop("atoms"), "(Cu-5): no structure; expected 'atoms'"),
    "unknown element": (
        lambda r: r["atoms"]["elements"].__setitem__(2, "Qq"),
        "(Cu-5): unknown element 'Qq'",
    ),
    "lost atom": (
        lambda r: r["atoms"]["elements"].pop(),
        "(Cu-5): coords has shape (8, 3), expected (7, 3)",
    ),
    "text": (lambda r: r["atoms"].update(coords="lost"), "(Cu-5): coords is not made of numbers"),
    "ragged": (lambda r: r["atoms"]["coords"][1].pop(), "(Cu-5): coords is not made of numbers"),
    "flat cell": (lambda r: r["atoms"].update(lattice_mat=[[0] * 3] * 3), "(Cu-5): axis a is periodic"),
    "energy": (
        lambda r: r.update(total_energy="failed"),
        "[5:Cu-5]: total_energy is 'failed', expected numbers",
    ),
    "missing": (lambda r: r.update(total_energy="na"), "[5:Cu-5]: no total_energy label"),
    "null": (lambda r: r.update(forces=None), "[5:Cu-5]: no forces label"),
    "infinite": (lambda r: r["forces"][3].__setitem__(1, float("inf")), "[5:Cu-5]: forces is not finite"),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_each_defect_of_a_json_record_is_named(no_cache, spoil):
    change, message = SPOILT[spoil]
    frames = [jarvis_record(a, k) for k, a in enumerate(copper_frames())]
    change(frames[5])
    path = no_cache / "copper.json"
    path.write_text(json.dumps(frames))
    refused(path, "copper.json", message)


@pytest.mark.parametrize("damage", ['{"jid": "Cu-5", "atoms": {', "[1, 2]", "not JSON", '"text"'])
def test_a_malformed_line_has_its_number(no_cache, damage):
    path = json_lines(no_cache, copper_frames())
    lines = path.read_text().splitlines()
    lines[5] = damage
    path.write_text("\n".join(lines))
    refused(path, f"{path}: line 6")


@pytest.mark.parametrize("text", ["", "[]", "7", "nonsense", "[{}] x", "[{},]", "[{} {}]", "[" * 100_000])
def test_what_is_no_list_of_records_is_refused(no_cache, text):
    path = no_cache / "odd.json"
    path.write_text(text)
    refused(path, "odd.json")


def test_a_missing_structure_file_names_row_and_file(no_cache):
    source = id_prop_csv(no_cache, copper_frames())
    (source / "POSCAR-5").unlink()
    refused(source, "id_prop.csv: line 7: structure file 'POSCAR-5' is missing", target="gap")
    (source / "POSCAR-5").write_text("Cu\n1.0\n3 0 0\n")
    refused(source, "id_prop.csv: line 7: ", "POSCAR-5: ends after line 3", target="gap")


def test_a_row_leads_to_no_file_outside_its_folder(no_cache):
    ase.io.write(no_cache / "POSCAR-x", copper(1)[0], format="vasp")
    (no_cache / "inner").mkdir()
    (no_cache / "inner" / "id_prop.csv").write_text("../POSCAR-x,1.0\n")
    refused(no_cache / "inner", "structure file '../POSCAR-x' is missing", target="target")


def test_a_folder_without_a_list_and_a_file_that_is_not_there(no_cache):
    refused(no_cache, "holds no id_prop.csv or id_prop.json", code=2)
    refused(no_cache / "none.jsonl", "none.jsonl: no such file", code=2)


def test_nothing_of_an_entry_is_taken_that_was_not_asked_for():
    (module,) = {sources.find(JARVIS / "ff"), sources.find(str(JARVIS / "ff"))}
    entries = module.read(JARVIS / "ff", {"forces"})
    assert {tuple(e.values) for e in entries} == {("forces",)}
    assert "stresses" in module.read(JARVIS / "ff")[0].values


def test_the_real_folder_survives_a_copy(tmp_path):
    shutil.copytree(JARVIS / "ff", tmp_path / "ff")
    first, second = (AtomsDataset(p, **FF).digest() for p in (JARVIS / "ff", tmp_path / "ff"))
    assert first == second
