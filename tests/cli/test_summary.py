"""Numbers as the summary prints them: as many digits as are known, and no more."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfflr.workflows.framework.results import plain, with_error

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "error", "unit", "text"),
    [
        (-43.16512, 0.0251, "eV", "-43.165 ± 0.025"),
        (52.7343749999999858, 2.4e-15, "Å^3", "52.7344"),  # rounding, not an uncertainty
        (52.7343749999999858, 0.0, "Å^3", "52.7344"),
        (1.5, NAN, "", "1.5"),
        (1.5, INF, "", "1.5"),
        (1.5, None, "", "1.5"),
        (NAN, 0.1, "", "–"),
        (NAN, None, "", "–"),
        (INF, 0.1, "", "inf"),
        (-0.0, None, "", "0"),
        (-0.01, 1.2, "", "0.0 ± 1.2"),
        (300.4, 123.0, "K", "300 ± 123"),
        (1.5, 0.0996, "", "1.500 ± 0.100"),
        (3e-9, 2e-10, "", "(3.00 ± 0.20)e-09"),
        (-1172.3456789, None, "eV", "-1172.3457"),  # 0.1 meV
        (-1172.3456789, None, "GPa", "-1172.35"),
        (-5.4212345, None, "eV", "-5.42123"),
    ],
)
def test_digits_end_where_the_error_begins(value, error, unit, text):
    assert with_error(value, error, unit) == text


finite = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(value=finite, error=st.floats(0, 1e12, allow_subnormal=False))
def test_what_is_printed_is_the_value_within_a_tenth_of_its_error_and_short(value, error):
    text = with_error(value, error)
    number, _, spread = text.strip("()").partition(" ± ")
    power = float(f"1{text.rpartition(')')[2] or 'e0'}") if ")" in text else 1.0
    printed = float(number.partition(")")[0]) * power
    room = 0.051 * error if spread else 5.1e-6 * abs(value)
    assert abs(printed - value) <= room + 1e-300
    assert len(re.sub(r"\D", "", number)) <= 11
    if spread:
        assert float(spread.partition(")")[0]) * power == pytest.approx(error, rel=0.06)


@given(value=finite)
def test_energies_show_a_tenth_of_a_millielectronvolt(value):
    if abs(value) < 1e7:
        assert float(plain(value, "eV")) == pytest.approx(value, abs=6e-5)
