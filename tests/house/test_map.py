"""A newcomer finds a file by its name alone, and reads the imports in one direction."""

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
MARKERS = {"__init__.py", "__main__.py"}  # what Python itself calls them


def test_no_two_modules_share_a_name():
    places = defaultdict(list)
    for path in (ROOT / "nfflr").rglob("*.py"):
        if path.name not in MARKERS:
            places[path.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 100  # the package was really searched
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_no_modules_import_each_other_in_a_circle():
    # Imports inside functions, and for types alone, count too: a circle hidden there is a circle. Only the
    # lists of public names of packages do not, which load on first use.
    graph = grimp.build_graph("nfflr", cache_dir=None)
    loaded = grimp.build_graph("nfflr", exclude_type_checking_imports=True, cache_dir=None)
    imports = {
        module: (loaded if graph.find_children(module) else graph).find_modules_directly_imported_by(module)
        for module in graph.modules
    }
    order = TopologicalSorter(imports)
    try:
        order.prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from error
    assert "nfflr.models.base" in graph.modules
