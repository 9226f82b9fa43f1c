"""A JARVIS data set by its name, such as ``dft_3d``: read from the user's cache, fetched by jarvis-tools.

Once the file lies there, jarvis-tools (extra ``nfflr[jarvis]``) is not needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ...errors import StructureError
from ...storage.files import claim_folder, user_cache
from . import Entry, Wanted, jarvis_json
from .jarvis_json import ENERGY_UNITS, KEYS, STRESS

__all__ = ["ENERGY_UNITS", "KEYS", "STRESS", "opens", "read"]

# Names for which the instructions work without jarvis-tools, as its table (2026.6) has them: figshare file
# number and the JSON file inside. With jarvis-tools installed, its own table is asked.
COMMON = {
    "dft_3d": (64391379, "jdft_3d-9-24-2025.json"),
    "dft_2d": (38521268, "d2-12-12-2022.json"),
    "dft_3d_2022": (38521619, "jdft_3d-12-12-2022.json"),
    "dft_3d_2021": (29204826, "jdft_3d-8-18-2021.json"),
    "dft_2d_2021": (26808917, "d2-3-12-2021.json"),
    "alignn_ff_db": (38522315, "id_prop.json"),
    "megnet": (26724977, "megnet.json"),
    "qm9_std_jctc": (28715319, "qm9_std_jctc.json"),
    "mlearn": (40357663, "mlearn.json"),
    "supercon_3d": (38307921, "jarvis_epc_data_figshare_1058.json"),
    "vacancydb": (52845425, "vacancydb.json"),
    "snumat": (38521736, "snumat.json"),
    "c2db": (28682010, "c2db_atoms.json"),
    "m3gnet_mpf": (41009036, "m3gnet_mpf.json"),
}
PAGE = "https://figshare.com/authors/Kamal_Choudhary/4445539"


def opens(source: object) -> bool:
    return isinstance(source, str) and not Path(source).exists() and _address(source) is not None


def read(source: str, wanted: Wanted = None) -> list[Entry]:
    address = _address(source)
    assert address is not None  # opens() has seen it
    url, inside = address
    folder = user_cache() / "jarvis" / source
    places = [folder / inside, folder / f"{inside}.zip"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        path = places[1]
        _fetch(source, url, inside, path)
    return jarvis_json.read(path, wanted)


def _address(name: str) -> tuple[str, str] | None:
    """Where a data set is to be had, and the name of the JSON file inside the archive."""
    if name in COMMON and _figshare() is None:
        number, inside = COMMON[name]
        return f"https://ndownloader.figshare.com/files/{number}", inside
    if not name.replace("_", "").replace(".", "").isalnum() or _figshare() is None:
        return None
    row = _figshare().get_db_info().get(name)
    return None if row is None else (row[0], row[1])


def _figshare():
    """jarvis-tools' module of data sets, None where that is not installed."""
    try:
        from jarvis.db import figshare
    except ImportError:
        return None
    return figshare


def _fetch(name: str, url: str, inside: str, path: Path) -> None:
    """Download an archive; it appears under its name only when it is whole.

    Raises:
        StructureError: it cannot be had; says what to download and where to put it.
    """
    figshare = _figshare()
    advice = (
        f"download {url} (listed on {PAGE}) and save it as {path}, or the {inside} inside it as "
        f"{path.parent / inside}"
    )
    if figshare is None:
        raise StructureError(
            f"{name}: this JARVIS data set is not on this machine; {advice}, or install nfflr[jarvis]"
        )
    claim_folder(path.parent)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=".download-", ignore_cleanup_errors=True
    ) as folder:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it prints; standard output is for results
                figshare.get_request_data(js_tag=inside, url=url, store_dir=folder)
        except Exception as error:  # whatever requests, zipfile and json raise when there is no network
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
                path.parent.rmdir()  # if this made it
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise StructureError(f"{name}: cannot be downloaded ({reason}); {advice}") from error
        os.replace(Path(folder) / f"{inside}.zip", path)
