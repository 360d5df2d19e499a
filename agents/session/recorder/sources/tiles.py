"""Which 64-pixel tiles of a screen changed, and few rectangles that cover them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

TILE = 64
Grid: TypeAlias = NDArray[np.bool_]
Box: TypeAlias = tuple[int, int, int, int]
"""x, y, width, height in pixels."""


def empty_grid(width: int, height: int) -> Grid:
    """One cell for each tile, rows first; the last column and row may be cut off."""
    return np.zeros((-(-height // TILE), -(-width // TILE)), np.bool_)


def mark(grid: Grid, boxes: Iterable[Box]) -> None:
    """Set every tile that a box touches; what lies outside of the screen is ignored."""
    for x, y, width, height in boxes:
        right, bottom = max(x + width, 0), max(y + height, 0)
        left, top = max(x, 0), max(y, 0)
        grid[top // TILE : -(-bottom // TILE), left // TILE : -(-right // TILE)] = True


def boxes(grid: Grid, width: int, height: int) -> Iterator[Box]:
    """Rectangles that cover exactly the tiles that are set, clipped to the screen.

    Runs of a row are one rectangle, and equal runs of rows below each other, too.
    """
    open_runs: dict[tuple[int, int], int] = {}
    for row in range(grid.shape[0] + 1):
        runs = set(_runs(grid[row])) if row < grid.shape[0] else set()
        for run in [run for run in open_runs if run not in runs]:
            yield _box(run, open_runs.pop(run), row, width, height)
        for run in runs:
            open_runs.setdefault(run, row)


def _runs(row: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], row, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _box(run: tuple[int, int], top: int, bottom: int, width: int, height: int) -> Box:
    x, y = run[0] * TILE, top * TILE
    return x, y, min(run[1] * TILE, width) - x, min(bottom * TILE, height) - y


def changed_tiles(new: NDArray[np.uint32], old: NDArray[np.uint32]) -> Grid:
    """The tiles in which two pictures, uint32 BGRX of one shape, differ in B, G or R."""
    differs = (new ^ old) & np.uint32(0x00FFFFFF) != 0
    rows = np.logical_or.reduceat(differs, range(0, new.shape[0], TILE), axis=0)
    return np.asarray(np.logical_or.reduceat(rows, range(0, new.shape[1], TILE), axis=1))
