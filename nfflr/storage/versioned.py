"""JSON files that are written and read back: each has one model and a version, and older files still read.

What raises a file of an earlier version to the next one stands here, in ``STEPS``, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import pydantic_core
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import ConfigError, plain_reason
from .files import write_json

Step = Callable[[dict[str, Any]], dict[str, Any]]


class Record(BaseModel):
    """A JSON file of this program.

    A subclass says by ``kind`` what the file is called in messages and in ``STEPS``, and by the default of
    ``version`` what is current. A file without a version is of the first.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")

    kind: ClassVar[str]
    version: int = 1

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file, of whatever version up to the current one.

        Raises:
            ConfigError: the file cannot be read, holds something else, or is of a newer version.
        """
        try:
            # The parser of pydantic refuses deep nesting, which would overflow the stack of others.
            content = pydantic_core.from_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}); give {cls.kind}") from error
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON ({error}); give {cls.kind}, or restore it") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: expected a JSON object; give {cls.kind}, or restore it")
        return cls.from_content(content, path)

    @classmethod
    def from_content(cls, content: dict[str, Any], source: Path) -> Self:
        """The record of a JSON object. Errors as of ``read``."""
        try:
            return cls.model_validate(raised(cls.kind, content, source))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{source}: {where}: {plain_reason(first)}; give {cls.kind}, or restore it"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; numbers that are not finite become null."""
        write_json(path, self.model_dump(mode="json", by_alias=True))


def raised(kind: str, content: dict[str, Any], source: Path) -> dict[str, Any]:
    """The content of a file in the form of the current version.

    Raises:
        ConfigError: the file is of a newer version, or its version is no number.
    """
    steps = STEPS.get(kind, ())
    version = content.get("version", 1)
    if type(version) is not int or not 1 <= version <= 1 + len(steps):
        raise ConfigError(
            f"{source}: is of version {version!r}; this nfflr reads up to {1 + len(steps)}; update nfflr"
        )
    for step in steps[version - 1 :]:
        content = step(content)
    return {**content, "version": 1 + len(steps)}


def _status_of_checks(content: dict[str, Any]) -> dict[str, Any]:
    """The first results of nff check said only whether a check passed."""
    checks = [
        {"status": "pass" if row.get("passed") else "fail", **row} if isinstance(row, dict) else row
        for row in content.get("checks") or ()
    ]
    return {**content, "checks": checks}


def _loss_between_validations(content: dict[str, Any]) -> dict[str, Any]:
    """States were once saved at validations only, when no loss was being summed."""
    return {"loss_sum": 0.0, "loss_count": 0, **content}


def _reasons_by_task(content: dict[str, Any]) -> dict[str, Any]:
    """The file was once nothing but reasons by task."""
    return {"tasks": content}


def _settings_apart(content: dict[str, Any]) -> dict[str, Any]:
    """Settings once stood beside the teacher and the structures."""
    apart: dict[str, Any] = {name: content[name] for name in ("teacher", "structures") if name in content}
    return {**apart, "settings": {name: value for name, value in content.items() if name not in apart}}


STEPS: dict[str, tuple[Step, ...]] = {
    "a result of nff check": (_status_of_checks,),
    "a training state": (_loss_between_validations,),
    "the left-out.json of nff distill": (_reasons_by_task,),
    "the plan.json of nff distill": (_settings_apart,),
}
