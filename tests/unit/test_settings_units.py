"""Quantities as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_guard.settings.units import (
    LARGEST_BYTES,
    LONGEST_SECONDS,
    UnitError,
    format_bytes,
    format_duration,
    format_ratio,
    parse_bytes,
    parse_duration,
    parse_ratio,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0B", 0),
        ("600MiB", 600 * 1024**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        (" 1.5 gib ", 3 * 1024**3 // 2),
        ("512M", 512 * 1024**2),
        ("2GB", 2 * 10**9),
        ("1kB", 1000),
        ("0.3B", 0),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("500ms", 0.5),
        ("5min", 300),
        ("5m", 300),
        ("1h 30min", 5400),
        ("1h30m", 5400),
        ("2d", 172800),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "ratio"), [("20%", 0.20), ("12.5 %", 0.125), ("0%", 0), ("100%", 1)])
def test_percentages_are_read_as_people_write_them(text: str, ratio: float) -> None:
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize("text", ["", "15", "abc%", "%", "1e3%", "nan%", "15%%", "-1%", "101%", "٣%", "1_0%"])
def test_an_impossible_percentage_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        parse_ratio(text)


@pytest.mark.parametrize(
    "text", ["", "12", "GiB", "1.5 XiB", "-1MiB", "1e9B", "1,5GiB", "99999TiB", "inf B", "1GiB 2"]
)
def test_a_bad_size_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        parse_bytes(text)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "30 parsecs", "-3s", "1h -3min", "10000d", "3s!", "1h,30min"]
)
def test_a_bad_duration_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        parse_duration(text)


@given(st.integers(0, LARGEST_BYTES))
def test_a_printed_size_compiles_to_itself(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == count


@given(st.integers(0, LONGEST_SECONDS * 1000).map(lambda ms: ms / 1000))
def test_a_printed_duration_compiles_to_itself(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**8).map(lambda n: n / 10**8))
def test_a_printed_percentage_compiles_to_itself(ratio: float) -> None:
    assert parse_ratio(format_ratio(ratio)) == ratio


@given(st.text())
def test_any_text_is_a_quantity_or_a_unit_error(text: str) -> None:
    for parse in (parse_bytes, parse_duration, parse_ratio):
        try:
            value = parse(text)
        except UnitError:
            continue
        assert value >= 0


def test_what_is_printed_is_what_a_person_would_write() -> None:
    decimal = (91 * 1000**2, 25 * 1000**3 // 10)
    assert [format_bytes(n) for n in (3 * 1024**3 // 2, 600 * 1024**2, 0, 1000, *decimal)] == [
        "1.5GiB",
        "600MiB",
        "0B",
        "1000B",
        "91MB",
        "2.5GB",
    ]
    assert [format_duration(s) for s in (60.0, 600.0, 0.5, 3600.0, 5400.0, 86400.0, 172800.0, 90.0)] == [
        "60s",
        "10min",
        "500ms",
        "1h",
        "90min",
        "24h",
        "2d",
        "90s",
    ]
    assert [format_ratio(r) for r in (0.2, 0.03, 0.125)] == ["20%", "3%", "12.5%"]
