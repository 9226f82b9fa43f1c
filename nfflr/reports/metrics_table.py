"""Records that other commands wrote (check, validation) as rows of a table, whatever fields they have."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ConfigError

ROWS = ("checks", "tasks", "results", "rows")  # where a record keeps its list of results
FIRST = ("name", "check", "task", "passed")  # columns that come first


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a JSON result") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error}); give the result of a command") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{path}: expected a JSON object; give the result of a command")
    return record


def table_of(record: dict) -> tuple[list[str], list[list[object]]]:
    """Headers and rows of a record's results; its plain values as name and value where it has no list."""
    rows = _rows(record)
    if not rows:
        return ["name", "value"], [[k, v] for k, v in _flat(record).items()]
    flat = [_flat(row) for row in rows]
    seen = list(dict.fromkeys(name for row in flat for name in row))
    headers = [n for n in FIRST if n in seen] + [n for n in seen if n not in FIRST]
    return headers, [[row.get(name) for name in headers] for row in flat]


def digest_of(record: dict) -> str | None:
    """Digest of the checkpoint that a record is about, if it says so."""
    for name in ("checkpoint", "calculator"):
        if isinstance(record.get(name), dict) and "digest" in record[name]:
            return record[name]["digest"]
    return None


def _rows(record: dict) -> list[dict]:
    places = [record, record["result"]] if isinstance(record.get("result"), dict) else [record]
    for place in places:
        for name in ROWS:
            found = place.get(name)
            if isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()):
                found = [{"name": key, **value} for key, value in found.items()]
            if found and isinstance(found, list) and all(isinstance(row, dict) for row in found):
                return [line for row in found for line in _lines(row)]
    return []


def _lines(row: dict) -> list[dict]:
    """What is told of a result: of a check its verdict and limit, of a task each score, else all of it."""
    if isinstance(row.get("scores"), dict):
        return _by_score(row)
    if {"status", "at_least", "limit"} <= row.keys():
        limit = None if row["limit"] is None else f"{'≥' if row['at_least'] else '≤'} {row['limit']:g}"
        told = {name: row.get(name) for name in ("name", "status", "value")}
        return [{**told, "limit": limit, "unit": row.get("unit"), "message": row.get("message")}]
    return [row]


def _by_score(row: dict) -> list[dict]:
    limits, units = (row.get(name) or {} for name in ("limits", "units"))
    first = {"name": row.get("name"), "status": row.get("status")}
    return [
        {**first, "score": name, "value": value, "limit": limits.get(name), "unit": units.get(name)}
        for name, value in row["scores"].items()
    ]


def _flat(row: dict, prefix: str = "") -> dict[str, object]:
    """Plain values of a record; those of one inside it as ``outer/inner``; long lists are left out."""
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            if len(value) <= 6 and not any(isinstance(v, dict | list) for v in value):
                flat[prefix + name] = ", ".join(map(str, value))
        else:
            flat[prefix + name] = value
    return flat
