"""Charts as inline SVG: lines over steps, dots with intervals, histograms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 26
HEAT_WIDTH, HEAT_LEFT, MOST_TOOLTIPS = 1100, 120, 4000


@dataclass(frozen=True)
class Line:
    """One curve. ``colour`` is an index into the page's palette; held-out curves are dashed."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values in [low, high] to pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 3) -> list[float]:
        """Round numbers inside the range, about ``count`` to twice as many."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = max(m * power for m in (1, 2, 5) if m * power <= raw * 1.001)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(lines: Sequence[Line], *, label: str) -> Markup:
    """Curves over optimizer steps, with axes and a tooltip per curve."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    across = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    upward = _axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, upward)]
    for line in lines:
        path = " ".join(f"{across.place(x):.1f},{upward.place(y):.1f}" for x, y in line.points)
        dash = Markup(' stroke-dasharray="4 3"') if line.dashed else ""
        last = f"{line.name}: {line.points[-1][1]:.4g} at step {line.points[-1][0]:g}"
        parts.append(
            Markup('<polyline class="c{}" points="{}"{}><title>{}</title></polyline>').format(
                line.colour, path, dash, last
            )
        )
    return _svg(parts, label)


def interval_chart(
    rows: Sequence[tuple[str, float, float, float, int]], *, label: str, percent: bool = True
) -> Markup:
    """One row per model: a dot at the value, a bar over its interval. (name, value, low, high,
    colour)."""
    height = 26 * len(rows) + BOTTOM
    high = max(r[3] for r in rows)
    across = Axis(0.0, 1.0 if percent else high * 1.08 or 1.0, 130, 560)
    parts = []
    for tick in across.ticks(5):
        x, text = across.place(tick), f"{tick:.0%}" if percent else f"{tick:g}"
        parts.append(_tick_line(x, 4, x, height - BOTTOM + 4))
        parts.append(_text(x, height - 8, text, "middle"))
    for index, (name, value, low, top, colour) in enumerate(rows):
        y = 26 * index + 16
        shown = f"{value:.1%} [{low:.1%}, {top:.1%}]" if percent else f"{value:.3f}"
        parts.append(_text(122, y + 4, name, "end"))
        parts.append(
            Markup(
                '<g class="c{}"><title>{}: {}</title>'
                '<line class="interval" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>'
                '<circle cx="{:.1f}" cy="{}" r="5"/></g>'
            ).format(
                colour,
                name,
                shown,
                across.place(low),
                across.place(top),
                y,
                y,
                across.place(value),
                y,
            )
        )
        parts.append(_text(across.place(top) + 8, y + 4, shown.split(" ")[0], "start"))
    return _svg(parts, label, width=640, height=height)


def histogram(values: Sequence[int], *, label: str, colour: int, bins: int = 24) -> Markup:
    """Counts of integer values in equal bins."""
    low, high = min(values), max(values)
    width = max(1, math.ceil((high - low + 1) / bins))
    counts = [0] * ((high - low) // width + 1)
    for value in values:
        counts[(value - low) // width] += 1
    across = Axis(low, low + width * len(counts), LEFT, WIDTH - RIGHT)
    upward = Axis(0, max(counts) * 1.05, HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, upward)]
    for index, count in enumerate(counts):
        left, right = (across.place(low + width * (index + i)) for i in (0, 1))
        y = upward.place(count)
        parts.append(
            Markup(
                '<rect class="c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{} to {}: {}</title></rect>"
            ).format(
                colour,
                left,
                y,
                max(1.0, right - left - 1),
                HEIGHT - BOTTOM - y,
                low + width * index,
                low + width * (index + 1) - 1,
                count,
            )
        )
    return _svg(parts, label)


@dataclass(frozen=True)
class Band:
    """A model's row of a heat map: (problem, outcome of each sample) in the order of all bands."""

    name: str
    columns: Sequence[tuple[str, Sequence[str]]]


def heat_map(bands: Sequence[Band], *, label: str) -> Markup:
    """A cell per sample: problems across, samples down, a band per model; one path per outcome."""
    num_columns = max(len(band.columns) for band in bands)
    samples = max(len(outcomes) for band in bands for _, outcomes in band.columns)
    across = min(14.0, (HEAT_WIDTH - HEAT_LEFT) / num_columns)
    down = max(2.0, min(12.0, 60.0 / samples))
    tall, parts = down * samples + 8, []
    for index, band in enumerate(bands):
        top = index * tall + 4
        parts.append(_text(HEAT_LEFT - 8, top + down * samples / 2 + 4, band.name, "end"))
        parts += _cells(band, top, across, down)
        if num_columns * len(bands) <= MOST_TOOLTIPS:
            parts += _tooltips(band, top, across, down * samples)
    return _svg(parts, label, width=HEAT_WIDTH, height=round(len(bands) * tall))


def _cells(band: Band, top: float, across: float, down: float) -> list[Markup]:
    paths: dict[str, list[str]] = {}
    gap = min(1.0, across / 5)
    for column, (_, outcomes) in enumerate(band.columns):
        for row, outcome in enumerate(outcomes):
            x, y = HEAT_LEFT + column * across, top + row * down
            step = f"M{x:.1f} {y:.1f}h{across - gap:.2f}v{down - gap:.2f}H{x:.1f}z"
            paths.setdefault(outcome, []).append(step)
    return [
        Markup('<path class="o-{}" d="{}"/>').format(outcome, "".join(steps))
        for outcome, steps in paths.items()
    ]


def _tooltips(band: Band, top: float, across: float, height: float) -> list[Markup]:
    return [
        Markup(
            '<rect class="hover" x="{:.1f}" y="{:.1f}" width="{:.2f}" height="{:.1f}">'
            "<title>{}: {} of {} right</title></rect>"
        ).format(
            HEAT_LEFT + column * across,
            top,
            across,
            height,
            problem.partition("/")[2],
            sum(outcome == "right" for outcome in outcomes),
            len(outcomes),
        )
        for column, (problem, outcomes) in enumerate(band.columns)
    ]


def _axis(low: float, high: float, start: float, end: float) -> Axis:
    """The range with a little air; a constant gets room on both sides."""
    air = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return Axis(low - air, high + air, start, end)


def _grid(across: Axis, upward: Axis) -> Markup:
    parts = []
    for tick in upward.ticks():
        y = upward.place(tick)
        parts.append(_tick_line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 6, y + 4, f"{tick:g}", "end"))
    for tick in across.ticks():
        if tick == int(tick):
            parts.append(_text(across.place(tick), HEIGHT - 8, f"{tick:g}", "middle"))
    return Markup("").join(parts)


def _tick_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        x1, y1, x2, y2
    )


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )


def _svg(
    parts: Sequence[Markup], label: str, *, width: int = WIDTH, height: int = HEIGHT
) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        width, height, label
    )
    return head + Markup("").join(escape(part) for part in parts) + Markup("</svg>")
