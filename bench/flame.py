"""A flame graph (SVG) of what py-spy saw: `python -m bench.flame TITLE < raw > graph.svg`.

The input is `py-spy record -f raw`: frames, outermost first, `;` between them, a space, a count.
"""

from __future__ import annotations

import html
import sys
from dataclasses import dataclass, field

WIDTH, ROW, LEAST = 1200.0, 16, 0.6  # pixels; what is narrower is left out
COLOURS = ("#f4a259", "#f7c59f", "#e76f51", "#f2b880", "#e9955d")


@dataclass
class Frame:
    """A function as called from those below it. count: samples in it and above it."""

    name: str
    count: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)

    def depth(self) -> int:
        return 1 + max((one.depth() for one in self.calls.values()), default=0)


def read(lines: list[str]) -> Frame:
    """The tree of all samples."""
    root = Frame("all")
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        if not stack:
            continue
        frame = root
        frame.count += int(count)
        for name in stack.split(";"):
            frame = frame.calls.setdefault(name, Frame(name))
            frame.count += int(count)
    return root


def draw(root: Frame, title: str) -> str:
    """Outermost at the bottom; a frame's width is its share, its tooltip says how much."""
    rows = root.depth()
    height = (rows + 2) * ROW
    boxes: list[str] = []

    def put(frame: Frame, x: float, level: int) -> None:
        width = WIDTH * frame.count / max(1, root.count)
        if width < LEAST:
            return
        y = height - (level + 1) * ROW
        name = html.escape(frame.name)
        share = f"{100 * frame.count / root.count:.1f} %"
        shown = html.escape(frame.name[: int(width / 6.2)]) if width > 25 else ""
        boxes.append(
            f'<g><title>{name} {share}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{ROW - 1}" fill="{COLOURS[sum(frame.name.encode()) % len(COLOURS)]}"/>'
            f'<text x="{x + 2:.1f}" y="{y + 11}">{shown}</text></g>'
        )
        for one in sorted(frame.calls.values(), key=lambda one: one.name):
            put(one, x, level + 1)
            x += WIDTH * one.count / root.count

    put(root, 0.0, 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height}" '
        'font-family="monospace" font-size="10">'
        f'<text x="4" y="12" font-size="12">{html.escape(title)}, {root.count} samples</text>'
        + "".join(boxes)
        + "</svg>\n"
    )


if __name__ == "__main__":
    sys.stdout.write(draw(read(sys.stdin.readlines()), " ".join(sys.argv[1:])))
