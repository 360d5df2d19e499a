"""Tiles: what is marked is covered, exactly, by few boxes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.session.recorder.sources.tiles import TILE, boxes, changed_tiles, empty_grid, mark


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 300),
    st.lists(st.tuples(st.integers(-50, 420), st.integers(-50, 320), st.integers(1, 200),
                       st.integers(1, 200)), max_size=6),
)  # fmt: skip
def test_boxes_cover_every_marked_pixel_once_and_only_marked_tiles(
    width: int, height: int, drawn: list[tuple[int, int, int, int]]
) -> None:
    grid = empty_grid(width, height)
    mark(grid, drawn)
    counted = np.zeros((height, width), int)
    for x, y, w, h in boxes(grid, width, height):
        assert w > 0
        assert h > 0
        counted[y : y + h, x : x + w] += 1
    tiles = np.repeat(np.repeat(grid, TILE, 0), TILE, 1)[:height, :width]
    assert np.array_equal(counted, tiles.astype(int))
    for x, y, w, h in drawn:
        assert counted[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)].all()


def test_runs_below_each_other_are_one_box() -> None:
    grid = empty_grid(300, 300)
    grid[1:4, 2:4] = True
    assert list(boxes(grid, 300, 300)) == [(128, 64, 128, 192)]


def test_a_difference_in_the_undefined_byte_is_none() -> None:
    old = np.zeros((100, 130), np.uint32)
    new = old.copy()
    new[5, 5] = 0xFF000000
    assert not changed_tiles(new, old).any()
    new[70, 129] = 0x00000100
    assert np.argwhere(changed_tiles(new, old)).tolist() == [[1, 2]]
