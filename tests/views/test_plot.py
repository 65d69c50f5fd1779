"""Plots: well-formed, harmless and bounded whatever they are given; axes as one reads them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.core.errors import ConfigurationError
from toolkit.views.plot import (
    COLOURS,
    POINTS_MAX,
    SERIES_MAX,
    Plot,
    Point,
    Series,
    log_ticks,
    round_ticks,
    spans_decades,
)

SVG = "{http://www.w3.org/2000/svg}"


def plot(*points: Point, **more: object) -> Plot:
    return Plot("a title", "x", "y", (Series("", points),), **more)  # type: ignore[arg-type]


def texts(drawn: Plot) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawn.svg).iter(f"{SVG}text")]


LINE = plot(Point(1, 0.5, 0.4, 0.6), Point(2, 0.7, 0.6, 0.8), Point(4, 0.9, 0.8, 1.0))

values = st.one_of(st.floats(), st.integers(-(10**30), 10**30))
anything = st.one_of(values, st.text(max_size=80), st.none(), st.booleans())


@settings(max_examples=150, deadline=None)
@given(
    st.text(),
    st.lists(
        st.tuples(st.text(max_size=80), st.lists(st.tuples(anything, values, values, values), max_size=6)),
        max_size=12,
    ),
)
def test_nothing_that_it_is_given_makes_it_ill_formed(
    words: str, lines: list[tuple[str, list[tuple[object, float, float, float]]]]
) -> None:
    series = tuple(Series(name, tuple(Point(*point) for point in points)) for name, points in lines)
    try:
        drawn = Plot(words, words, words, series, about=words)
    except ConfigurationError:
        assert not any(abs(point.y) < 1e300 for line in series for point in line.points)
        return
    root = ElementTree.fromstring(drawn.svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {"svg", "title", "path", "text", "g"}
    places = " ".join(element.get("d", "") for element in root.iter())
    assert "nan" not in places and "inf" not in places
    assert str(drawn)


def test_hostile_labels_stay_text() -> None:
    hostile = '</text><script>alert(1)</script><img src=x onerror="alert(2)">&\x1b[2J\u202e\ud800\x00'
    drawn = Plot(hostile, hostile, hostile, (Series(hostile, (Point(hostile, 1.0),)),), about=hostile)
    root = ElementTree.fromstring(drawn.svg)
    assert not list(root.iter(f"{SVG}script")) and "<script" not in drawn.svg and "<img" not in drawn.svg
    assert not re.search(r"<[^>]*\son\w+=", drawn.svg)
    assert "\x1b" not in drawn.svg and "\u202e" not in drawn.svg
    assert "\x1b" not in str(drawn)


def test_it_has_a_bound_whatever_comes() -> None:
    many = tuple(
        Series(f"line {number}" * 50, tuple(Point(x, x * number, 0, 2 * x) for x in range(3_000)))
        for number in range(40)
    )
    drawn = Plot("much", "x", "y", many)
    assert len(drawn.svg) < 150_000
    assert f"and {40 - SERIES_MAX} more" in texts(drawn)
    longest = max(path.count("L") for path in re.findall(r'd="([^"]*)"', drawn.svg))
    assert longest <= 2 * POINTS_MAX
    assert len(str(drawn)) < 50_000


def test_series_differ_by_more_than_colour() -> None:
    two = tuple(Series(name, (Point(1, 1.0), Point(2, 2.0))) for name in ("a", "b"))
    strokes = re.findall(r"<path [^>]*stroke-width[^>]*>", Plot("t", "x", "y", two).svg)
    dashes = {re.search(r'stroke-dasharray="([^"]*)"', stroke) for stroke in strokes}
    assert len(strokes) == 4 and None in dashes and len(dashes) > 1
    markers = re.findall(r'<path d="([^"]*)" transform', Plot("t", "x", "y", two).svg)
    assert len(set(markers)) == 2


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("paper", ["#ffffff", "#1e1e1e"])
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_can_be_seen_on_light_and_dark(colour: str, paper: str) -> None:
    low, high = sorted((luminance(colour), luminance(paper)))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_text_has_the_colour_of_the_page() -> None:
    assert 'fill="currentColor"' in LINE.svg
    # A style sheet in a page would be everybody's; a file has one of its own, with both themes.
    assert "<style" not in LINE.svg


def test_a_file_stands_alone(tmp_path: Path) -> None:
    written = LINE.save(tmp_path / "a.svg").read_text()
    ElementTree.fromstring(written)
    assert "prefers-color-scheme:dark" in written
    with pytest.raises(ConfigurationError, match=r"is no \.svg; give a name"):
        LINE.save(tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="can't be written"):
        LINE.save(tmp_path / "missing" / "a.svg")


def test_a_notebook_gets_both_forms() -> None:
    bundle = LINE._repr_mimebundle_()
    assert bundle["text/html"] == LINE._repr_html_() == LINE.svg
    assert bundle["text/plain"] == str(LINE)
    assert "0.4 to 0.6" in str(LINE)


@settings(max_examples=300)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_round_and_inside(low: float, length: float) -> None:
    ticks = round_ticks(low, low + length)
    assert 2 <= len(ticks) <= 11
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 3) in (1, 2, 5, 10)
    slack = 1e-6 * length + 1e-9
    assert all(low - slack <= tick <= low + length + slack for tick in ticks)


def test_labels_of_a_logarithmic_axis_do_not_touch() -> None:
    lines = tuple(
        Series(f"a line with a long name {n}", (Point(256, 1.0), Point(131_072, 2.0))) for n in (1, 2)
    )
    svg = Plot("t", "GPUs", "y", lines, x_log=True).svg
    assert ">10,000<" in svg
    assert ">50,000<" not in svg


def test_ticks_as_one_would_draw_them() -> None:
    assert round_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_ticks(0.83, 0.98) == [0.85, 0.9, 0.95]
    assert log_ticks(9, 1100) == [10, 20, 50, 100, 200, 500, 1000]
    assert log_ticks(1, 1e12)[0] == 1 and len(log_ticks(1, 1e12)) <= 9


@pytest.mark.parametrize(
    ("xs", "is_log"),
    [
        ([1, 2, 3, 4], False),
        ([2, 4, 8, 16, 32], True),
        ([300, 900, 2700, 8100], True),
        ([1, 1000], True),
        ([1, 4], False),
        ([0, 10, 1000], False),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], False),
    ],
)
def test_a_parameter_that_spans_decades_gets_a_log_axis(xs: list[float], is_log: bool) -> None:
    assert spans_decades(xs) is is_log
    drawn = plot(*(Point(x, 1.0) for x in xs))
    assert any("log scale" in text for text in texts(drawn)) is is_log


def test_few_values_are_their_own_ticks() -> None:
    shown = texts(plot(*(Point(x, x) for x in (2, 4, 8, 16, 32))))
    assert [text for text in shown if text in ("2", "4", "8", "16", "32")][-5:] == ["2", "4", "8", "16", "32"]


def test_what_is_no_number_stands_side_by_side() -> None:
    drawn = plot(Point("rally", 0.9, 0.8, 1.0), Point("torch", 0.4, 0.3, 0.5), Point(None, 0.1))
    assert {"rally", "torch", "none"} <= set(texts(drawn))
    assert "stroke-width" not in drawn.svg  # nothing joins them


def test_a_share_stays_within_its_bounds() -> None:
    drawn = plot(Point(1, 1.0, 0.9, 1.0), Point(2, 0.99, 0.9, 1.0), y_bounds=(0.0, 1.0))
    assert "1.02" not in texts(drawn) and "1" in texts(drawn)


@pytest.mark.parametrize("y", [0.0, 5.0, -3.0, 1e-12, 1e12])
def test_one_point_and_a_flat_line_are_drawn(y: float) -> None:
    for points in ((Point(1, y),), (Point(1, y), Point(2, y))):
        ElementTree.fromstring(plot(*points).svg)


def test_bad_plots_say_so() -> None:
    with pytest.raises(ConfigurationError, match="has no point with a number"):
        plot(Point(1, math.nan))
    with pytest.raises(
        ConfigurationError, match="can't have a logarithmic x axis with 0 on it; leave out x_log"
    ):
        plot(Point(0, 1.0), Point(10, 2.0), x_log=True)
    with pytest.raises(ConfigurationError, match="logarithmic y axis"):
        plot(Point(1, -1.0), y_log=True)
