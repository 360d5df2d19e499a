"""Records of a screen that scrolls, made without a screen: the same each time."""

from __future__ import annotations

import random

import numpy as np

from schemas.frames import FrameRecord, Kind, chain_start
from schemas.screen import encode_update, pack_rect
from schemas.sessions import new_session_id

STEP = 100_000


def payloads(count: int, seed: int = 0) -> list[bytes]:
    """Updates of a 640 by 400 terminal in which text moves up, line by line."""
    noise = np.random.default_rng(seed)
    glyphs = noise.integers(0, 2, (96, 16, 8), np.uint8) * 200
    found = []
    screen = np.zeros((400, 640, 4), np.uint8)
    for _ in range(count):
        screen = np.roll(screen, -16, axis=0)
        line = np.concatenate(glyphs[noise.integers(0, 96, 80)], axis=1)
        screen[-16:] = line[:, :, None]
        found += encode_update(pack_rect(0, 0, screen), keyframe=False)
    return found


def records(size: int, seed: int = 0, *, noisy: bool = False) -> list[FrameRecord]:
    """Frame records of one session of about `size` bytes."""
    source = random.Random(seed)
    session = new_session_id(1_700_000_000_000_000, source.randbytes(10))
    pool = [source.randbytes(60_000) for _ in range(8)] if noisy else payloads(40, seed)
    found: list[FrameRecord] = []
    total = 0
    while total < size - 70_000:
        payload = pool[len(found) % len(pool)]
        if noisy:
            payload = source.randbytes(60_000)
        chain = chain_start(session)
        record = FrameRecord(session, Kind.FRAMES, len(found), len(found) * STEP, chain, payload)
        found.append(record)
        total += record.size
    return found
