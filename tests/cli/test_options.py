"""Options made from settings: every kind of field, and what is said of a wrong one."""

from typing import Annotated, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from nfflr.cli.options import read_settings, settings_options
from nfflr.errors import ConfigError
from nfflr.units import Unit
from nfflr.workflows.framework.interface import Settings


class ManySettings(Settings):
    count: int = Field(3, ge=1, description="number of things")
    length: Annotated[float | None, Unit("Å")] = Field(None, description="how long")
    supercell: tuple[int, int, int] | None = Field(None, description="repeats")
    window: tuple[float, float] = Field((0.0, 1.0), description="from, to")
    mixed: tuple[int, str] | None = Field(None, description="a number and a word")
    method: Literal["a", "b"] | None = Field(None, description="which")
    names: tuple[str, ...] = Field((), description="some names")
    flag: bool = Field(True, description="whether")
    choice: bool | None = Field(None, description="whether, or as it comes")


def parse(*arguments):
    found = {}
    command = click.Command("x", params=settings_options(ManySettings), callback=found.update)
    result = CliRunner().invoke(command, arguments)
    return result, found


def test_every_kind_of_field_has_its_option():
    result, found = parse(
        *("--count", "4", "--length", "2.5", "--supercell", "1", "2", "3", "--window", "-1", "2"),
        *("--mixed", "7", "word", "--method", "b", "--names", "x", "--names", "y", "--no-flag", "--choice"),
    )
    assert result.exit_code == 0, result.output
    settings = read_settings(ManySettings, None, found)
    assert settings == ManySettings(
        count=4,
        length=2.5,
        supercell=(1, 2, 3),
        window=(-1.0, 2.0),
        mixed=(7, "word"),
        method="b",
        names=("x", "y"),
        flag=False,
        choice=True,
    )


def test_nothing_given_is_all_defaults():
    result, found = parse()
    assert result.exit_code == 0 and read_settings(ManySettings, None, found) == ManySettings()


def test_help_has_units_and_defaults_and_none_of_none():
    text = " ".join(parse("--help")[0].output.split())
    assert "How long (Å)." in text and "[default: 3]" in text and "[default: 0.0 1.0]" in text
    assert "[default: flag]" in text and "None" not in text and "[a|b]" in text


@pytest.mark.parametrize("wrong", [("--supercell", "1", "2"), ("--method", "c"), ("--count", "x")])
def test_what_does_not_fit_is_a_usage_error(wrong):
    result, _ = parse(*wrong)
    assert result.exit_code == 2 and wrong[0] in result.output


def test_settings_of_a_file_stand_where_no_option_is_given(tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text("supercell: [2, 2, 2]\ncount: 9\nmethod: a\n")
    _, found = parse("--count", "5")
    settings = read_settings(ManySettings, config, found)
    assert (settings.supercell, settings.count, settings.method) == ((2, 2, 2), 5, "a")
    config.write_text("- 1\n")
    with pytest.raises(ConfigError, match="name: value"):
        read_settings(ManySettings, config, {})
    config.write_text("count: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_settings(ManySettings, config, {})
    config.write_bytes(b"\xff\xfe\x00")  # no text at all
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_settings(ManySettings, config, {})
    with pytest.raises(ConfigError, match="--count: .*greater than or equal to 1"):
        read_settings(ManySettings, None, {"count": 0})
