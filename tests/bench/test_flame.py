"""A flame graph's widths are the samples' shares."""

from __future__ import annotations

import re

from bench.flame import draw, read


def test_a_frame_is_as_wide_as_its_share() -> None:
    root = read(["main;work <a> 3\n", "main 1\n", "\n"])
    assert (root.count, root.calls["main"].count, root.depth()) == (4, 4, 3)
    text = draw(root, "title")
    assert "title, 4 samples" in text
    widths = [float(one) for one in re.findall(r'width="([\d.]+)"', text)]
    assert widths == [1200.0, 1200.0, 900.0]
    assert "work &lt;a&gt; 75.0 %" in text
