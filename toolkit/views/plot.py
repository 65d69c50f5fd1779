"""Lines with bands of uncertainty, drawn as SVG: for notebooks, reports and files. Pure; no drawing library.

What comes out is well-formed XML with no script and no style sheet, bounded in size whatever it is given. Text and
axes have the colour of the page around (`currentColor`), so a plot can be read in light and dark themes; series differ
by dash and marker as well as by colour, and a page may set the colours itself (`--rally-series-1` and so on).
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from toolkit.core.errors import ConfigurationError
from toolkit.views.table import cell, figure, sayable, text_table

#: what is drawn at the most; of more, evenly spread points, and the first series
SERIES_MAX, POINTS_MAX = 8, 200
_LABEL_MAX = 48
_WIDTH, _HEIGHT = 720, 400
_TOP, _RIGHT, _BOTTOM, _LEFT = 46, 20, 56, 70
#: of a character, at the size of the axes' text
_CHARACTER = 6.6
#: contrast of 3:1 at least with white and with #1e1e1e: `tests/views/test_plot.py`
COLOURS = ("#2a7fd4", "#cc6a14", "#1f9563", "#a35fd6", "#d9484f", "#16909c", "#8f7a1d", "#7c8088")
_DASHES = ("", "7 4", "2 4", "10 3 2 3", "4 2", "1 3", "12 4", "6 2 1 2")
_INK, _PAPER, _DARK_INK, _DARK_PAPER = "#1b1e23", "#ffffff", "#e4e6ea", "#15171b"
#: what XML has no way to say
_UNSAYABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Point:
    """One point.

    Args:
        x: a number, or what else the parameter is.
        y: the estimate.
        low: lower end of its interval; nan if there is none.
        high: upper end.
    """

    x: Any
    y: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Series:
    """A line.

    Args:
        name: for the legend; empty if it is the only one.
        points: of the line, in any order.
    """

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, repr=False)
class Plot:
    """A plot as a value. A notebook shows it; `print` gives its figures as a table.

    Args:
        title: above it.
        x_label: what the horizontal axis is.
        y_label: what the vertical one is.
        series: the lines.
        about: a line below the title, as what the bands are.
        x_log: whether the horizontal axis is logarithmic; None decides by the values.
        y_log: the same of the vertical one; None is no.
        y_bounds: what the measure can't exceed, as `(0, 1)` for a share.

    Raises:
        ConfigurationError: there is nothing to draw, or a logarithm of what has none.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    about: str = ""
    x_log: bool | None = None
    y_log: bool | None = None
    y_bounds: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not any(_drawn(line) for line in self.series):
            raise ConfigurationError(
                f"plot {self.title!r} has no point with a number; give one series with one point at least"
            )
        for axis, wants_log, values in (("x", self.x_log, self._xs()), ("y", self.y_log, self._ys())):
            wrong = [value for value in values if not (_is_number(value) and value > 0)]
            if wants_log and wrong:
                raise ConfigurationError(
                    f"plot {self.title!r} can't have a logarithmic {axis} axis with {cell(wrong[0])} on it; "
                    f"leave out {axis}_log"
                )

    def _xs(self) -> list[Any]:
        return [point.x for line in self.series for point in _drawn(line)]

    def _ys(self) -> list[float]:
        return [point.y for line in self.series for point in _drawn(line)]

    @property
    def svg(self) -> str:
        """The drawing, to stand in a page: it has the text colour of what is around it."""
        return _svg(self, standalone=False)

    def save(self, path: str | Path) -> Path:
        """Write it as a file of its own, with a background that follows the reader's theme.

        Raises:
            ConfigurationError: the name does not end in .svg, or the file can't be written.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise ConfigurationError(f"plot file {path} is no .svg; give a name that ends in .svg")
        try:
            path.write_text(_svg(self, standalone=True), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"plot {path} can't be written: {error.strerror}") from error
        return path

    def __str__(self) -> str:
        """The figures."""
        several = len(self.series) > 1
        rows = [
            (*([line.name] if several else []), point.x, point.y, _interval(point))
            for line in self.series
            for point in _drawn(line)
        ]
        columns = (*(["series"] if several else []), self.x_label, self.y_label, "95 % interval")
        lines = [sayable(self.title), *([sayable(self.about)] if self.about else [])]
        return "\n".join([*lines, "", text_table(columns, rows)])

    def __repr__(self) -> str:
        points = sum(len(line.points) for line in self.series)
        return f"Plot({self.title!r}, {len(self.series)} series, {points} points)"

    def _repr_html_(self) -> str:
        return self.svg

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/html": self.svg}


def _interval(point: Point) -> str:
    return "" if math.isnan(point.low) else f"{figure(point.low)} to {figure(point.high)}"


# -- scales ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values to places, from `start` to `end` in pixels."""

    place: Callable[[Any], float]
    ticks: tuple[tuple[float, str], ...]


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie in an interval, some `count` of them."""
    assert high > low, f"an axis from {low} to {high} has no length"
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Digits are cut: 3 * 0.1 is 0.30000000000000004.
    digits = max(0, -math.floor(math.log10(step)) + 1)
    return [round(number * step, digits) + 0.0 for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in an interval of positive numbers; with few of them, 2 and 5 times these as well."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first
    factors = (1, 2, 5) if decades <= 4 else (1,)
    every = math.ceil(decades / 8) or 1
    ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis shows these better: they spread over decades, or grow by factors."""
    distinct = sorted(set(values))
    if len(distinct) < 2 or distinct[0] <= 0:
        return False
    ratio = distinct[-1] / distinct[0]
    if len(distinct) < 3 or ratio < 8:
        return ratio >= 100
    return ratio >= 1000 or _unevenness(list(map(math.log, distinct))) < _unevenness(distinct)


def _unevenness(values: Sequence[float]) -> float:
    gaps = [after - before for before, after in pairwise(values)]
    mean = sum(gaps) / len(gaps)
    return math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean


def _axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool,
    pad: float,
    bounds: tuple[float, float],
    at_values: bool,
) -> _Scale:
    """A scale for numbers.

    Args:
        pad: free share at both ends.
        bounds: what it does not exceed.
        at_values: whether ticks stand at the values themselves, if these are few and round.
    """
    low, high = (math.log10(min(values)), math.log10(max(values))) if log else (min(values), max(values))
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        half = 0.5 if log else abs(low) / 10 or 0.5
        low, high = low - half, high + half
    else:
        low, high = low - pad * (high - low), high + pad * (high - low)
    if not log:
        low, high = max(low, bounds[0]), min(high, bounds[1])
        if high <= low:
            low, high = low - 0.05, high + 0.05

    def place(value: float) -> float:
        position = math.log10(value) if log else value
        return start + (position - low) / (high - low) * (end - start)

    distinct = sorted(set(values))
    if at_values and _can_be_ticks(distinct, place):
        ticks: list[float] = distinct
    else:
        ticks = log_ticks(10**low, 10**high) if log else round_ticks(low, high)
        powers = [tick for tick in ticks if f"{tick:e}".startswith("1.000000e")]
        # Labels stand beside each other on this axis; those of 50,000 and 100,000 would touch.
        if log and at_values and len(powers) > 1 and not _apart(ticks, place):
            ticks = powers
    return _Scale(place, tuple((place(tick), _tick(tick)) for tick in ticks))


def _can_be_ticks(values: Sequence[float], place: Callable[[float], float]) -> bool:
    if not 2 <= len(values) <= 9 or any(float(f"{value:.3g}") != value for value in values):
        return False
    return _apart(values, place)


def _apart(values: Sequence[float], place: Callable[[float], float]) -> bool:
    """Whether their labels have room beside each other."""
    widest = max(map(len, map(_tick, values)), default=0) * _CHARACTER + 8
    return all(abs(place(after) - place(before)) >= widest for before, after in pairwise(values))


def _tick(value: float) -> str:
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    text = f"{value:,.6f}".rstrip("0").rstrip(".")
    return text or "0"


def _categories(values: Sequence[Any], start: float, end: float) -> _Scale:
    names = list(dict.fromkeys(map(cell, values)))[:POINTS_MAX]
    step = (end - start) / len(names)
    places = {name: start + step * (at + 0.5) for at, name in enumerate(names)}
    letters = max(3, int(step / _CHARACTER) - 1)
    every = math.ceil(len(names) / 24)
    ticks = [
        (place, name if len(name) <= letters else f"{name[: letters - 1]}…")
        for name, place in list(places.items())[::every]
    ]
    return _Scale(lambda value: places[cell(value)], tuple(ticks))


# -- drawing --------------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    # Beyond that, differences are no floats any more.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _drawn(line: Series) -> list[Point]:
    """The points of a line that can be drawn, not too many of them, from left to right where that means something."""
    points = [point for point in line.points if _is_number(point.y)]
    if all(_is_number(point.x) for point in points):
        points.sort(key=lambda point: point.x)
    every = math.ceil(len(points) / POINTS_MAX) or 1
    return points[::every]


def _svg(plot: Plot, *, standalone: bool) -> str:
    lines = [(line, _drawn(line)) for line in plot.series if _drawn(line)][:SERIES_MAX]
    legend = _legend_width(lines)
    right, bottom = _WIDTH - _RIGHT - legend, _HEIGHT - _BOTTOM
    xs = [point.x for _, points in lines for point in points]
    ys = [value for _, points in lines for point in points for value in (point.y, point.low, point.high)]
    numbers = all(map(_is_number, xs))
    x_log = numbers and (spans_decades(xs) if plot.x_log is None else plot.x_log)
    x = (
        _axis(xs, _LEFT, right, log=x_log, pad=0.03, bounds=(-math.inf, math.inf), at_values=True)
        if numbers
        else _categories(xs, _LEFT, right)
    )
    seen = [value for value in ys if _is_number(value) and not (plot.y_log and value <= 0)]
    y = _axis(seen, bottom, _TOP, log=bool(plot.y_log), pad=0.06, bounds=plot.y_bounds, at_values=False)
    lowest = min(seen)
    floor: Callable[[float], float] = lambda value: y.place(max(value, lowest))  # noqa: E731 - a short way to say it
    parts = [
        *_frame(plot, x, y, right, bottom, x_log),
        *(
            part
            for at, (_, points) in enumerate(lines)
            for part in _line(
                at, points, x.place, floor, None if numbers else 10 * (at - (len(lines) - 1) / 2)
            )
        ),
        *(_legend(lines, right + 16, len(plot.series) - len(lines)) if legend else []),
    ]
    return _wrapped(plot, "".join(parts), standalone)


def _wrapped(plot: Plot, inside: str, standalone: bool) -> str:
    style = (
        f"<style>svg{{color:{_INK};background:{_PAPER}}}"
        f"@media (prefers-color-scheme:dark){{svg{{color:{_DARK_INK};background:{_DARK_PAPER}}}}}</style>"
        if standalone
        else ""
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" style="max-width:100%;height:auto" role="img" '
        f'font-family="system-ui,sans-serif" font-size="12" fill="none">'
        f"<title>{_text(plot.title, 200)}</title>{style}{inside}</svg>"
    )


def _frame(plot: Plot, x: _Scale, y: _Scale, right: float, bottom: float, x_log: bool) -> list[str]:
    """Title, grid, axes and what stands at them."""
    grid = 'stroke="currentColor" stroke-opacity="0.14"'
    parts = [
        _label(_LEFT, 18, plot.title, anchor="start", size=14, weight=600, limit=90),
        *([_label(_LEFT, 35, plot.about, anchor="start", faint=True, limit=110)] if plot.about else []),
    ]
    for place, text in y.ticks:
        parts.append(f'<path d="M{_LEFT} {place:.1f}H{right:.1f}" {grid}/>')
        parts.append(_label(_LEFT - 8, place + 4, text, anchor="end"))
    for place, text in x.ticks:
        parts.append(f'<path d="M{place:.1f} {_TOP}V{bottom}" {grid}/>')
        parts.append(_label(place, bottom + 18, text))
    parts.append(
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right:.1f}" stroke="currentColor" stroke-opacity="0.6"/>'
    )
    scale = " (log scale)" if x_log else ""
    middle = (_TOP + bottom) / 2
    parts.append(_label((_LEFT + right) / 2, bottom + 40, f"{plot.x_label}{scale}", limit=90))
    parts.append(
        f'<g transform="rotate(-90 16 {middle:.0f})">{_label(16, middle + 4, plot.y_label, limit=52)}</g>'
    )
    return parts


def _line(
    at: int,
    points: Sequence[Point],
    x: Callable[[Any], float],
    y: Callable[[float], float],
    apart: float | None,
) -> list[str]:
    """Band or whiskers, then the line, then its markers.

    Args:
        at: which series.
        apart: of categories, which are not joined: how far aside its marks stand, so that series don't hide each other.
    """
    colour = _colour(at)
    joined, aside = apart is None, apart or 0.0
    places = [(x(point.x) + aside, y(point.y)) for point in points]
    sure = [point for point in points if _is_number(point.low) and _is_number(point.high)]
    parts = []
    if joined and len(sure) > 1:
        outline = [
            *((x(point.x), y(point.high)) for point in sure),
            *((x(point.x), y(point.low)) for point in reversed(sure)),
        ]
        parts.append(f'<path d="M{_path(outline)}Z" style="fill:{colour}" fill-opacity="0.16"/>')
    else:
        for point in sure:
            left = x(point.x) + aside
            parts.append(
                f'<path d="M{left:.1f} {y(point.low):.1f}V{y(point.high):.1f}M{left - 4:.1f} {y(point.low):.1f}h8'
                f'M{left - 4:.1f} {y(point.high):.1f}h8" style="stroke:{colour}" stroke-opacity="0.8"/>'
            )
    if joined and len(places) > 1:
        parts.append(_stroke(_path(places), at))
    few = len(places) <= 40
    parts += [_marker(at, left, top) for left, top in (places if few else [])]
    return parts


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{left:.1f} {top:.1f}" for left, top in places)


def _stroke(path: str, at: int) -> str:
    dash = _DASHES[at % len(_DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<path d="M{path}" style="stroke:{_colour(at)}" stroke-width="2" stroke-linejoin="round"{dashed}/>'
    )


def _colour(at: int) -> str:
    return f"var(--rally-series-{at + 1},{COLOURS[at % len(COLOURS)]})"


def _marker(at: int, left: float, top: float) -> str:
    """A sign of its own for each series."""
    shapes = (
        "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",
        "M-3.6 -3.6h7.2v7.2h-7.2Z",
        "M0 -4.8L4.4 3.2H-4.4Z",
        "M0 -5L5 0L0 5L-5 0Z",
        "M0 4.8L4.4 -3.2H-4.4Z",
        "M-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3Z",
        "M-5 -2h10v4h-10Z",
        "M-2 -5h4v10h-4Z",
    )
    shape = shapes[at % len(shapes)]
    return f'<path d="{shape}" transform="translate({left:.1f} {top:.1f})" style="fill:{_colour(at)}"/>'


def _legend_width(lines: Sequence[tuple[Series, Sequence[Point]]]) -> float:
    if len(lines) == 1 and not lines[0][0].name:
        return 0.0
    widest = max(len(cell(line.name)) for line, _ in lines)
    return min(widest, 26) * _CHARACTER + 60


def _legend(lines: Sequence[tuple[Series, Sequence[Point]]], left: float, more: int) -> list[str]:
    parts = []
    for at, (line, _) in enumerate(lines):
        top = _TOP + 14 + 22 * at
        parts.append(_stroke(f"{left:.1f} {top}H{left + 30:.1f}", at))
        parts.append(_marker(at, left + 15, top))
        parts.append(_label(left + 38, top + 4, line.name, anchor="start", limit=26))
    if more > 0:
        top = _TOP + 18 + 22 * len(lines)
        parts.append(_label(left, top, f"and {more} more", anchor="start", faint=True))
    return parts


def _label(
    left: float,
    top: float,
    text: str,
    *,
    anchor: str = "middle",
    size: int = 12,
    weight: int = 400,
    faint: bool = False,
    limit: int = _LABEL_MAX,
) -> str:
    opacity = ' fill-opacity="0.75"' if faint else ""
    return (
        f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="currentColor"{opacity}>{_text(text, limit)}</text> '
    )


def _text(text: str, limit: int) -> str:
    """Text that stands in XML: on one line, clipped, escaped, with nothing in it that XML or a reader can't bear."""
    text = sayable(_UNSAYABLE.sub("\ufffd", str(text)))
    return html.escape(text if len(text) <= limit else f"{text[: limit - 1]}…")
