"""Recorded screens: readable, as compressible on the tenth lap as on the first."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from agents.load.content import ContentError, load_content, names
from agents.load.schedule import Step
from agents.load.session import REASON, Identity, LoadSession
from schemas.canonical import decode
from schemas.controls import Close, Open
from schemas.frames import MAX_PAYLOAD, FrameRecord, Kind, chain_next, from_kafka, to_kafka
from schemas.notes import Commitment, open_note
from schemas.screen import pictures
from tests.factories import RECORDER
from tests.factories import Identity as Age


def test_the_shipped_kinds_are_small_and_play() -> None:
    assert names() == ["office", "text", "video"]
    for name in names():
        found = load_content(name)
        shown = [screen.canvas.shape for _, screen in pictures((0, one) for one in found.payloads)]
        assert shown
        assert set(shown) == {(720, 1280, 3)}
        assert max(found.sizes) <= MAX_PAYLOAD
    for path in Path("bench/data").iterdir():
        assert path.stat().st_size < 1_000_000


def test_another_lap_is_another_picture_and_compresses_alike() -> None:
    one = load_content("office")
    many = load_content("office", need=3 * sum(one.sizes))
    laps = len(many.payloads) // len(one.payloads)
    assert laps >= 3
    assert abs(many.compressed / one.compressed - 1) < 0.1
    # The same laps as they were recorded would be found in the compressor's window.
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=23)
    packer = zstandard.ZstdCompressor(compression_params=parameters)
    again = b"".join(one.payloads) * 2
    assert len(packer.compress(again)) / len(again) < 0.8 * many.compressed
    assert load_content("office", need=3 * sum(one.sizes)) == many


@pytest.mark.parametrize("noise", [0.3, 0.8])
def test_noise_is_the_share_that_does_not_compress(noise: float) -> None:
    plain, noisy = load_content("text"), load_content("text", noise=noise)
    grown = sum(noisy.sizes) / sum(plain.sizes)
    assert abs(grown * (1 - noise) - 1) < 0.1
    expected = noise + (1 - noise) * plain.compressed
    assert abs(noisy.compressed - expected) < 0.12
    assert list(pictures((0, one) for one in noisy.payloads))


def test_updates_go_together_up_to_a_size() -> None:
    plain, grouped = load_content("office"), load_content("office", record_bytes=30_000)
    assert len(grouped.payloads) < len(plain.payloads) / 3
    assert min(grouped.sizes[:-1]) >= 30_000
    *_, (_, one) = pictures((0, payload) for payload in plain.payloads)
    *_, (_, two) = pictures((0, payload) for payload in grouped.payloads)
    assert (one.picture() == two.picture()).all()


def test_content_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(ContentError, match="there is no content film"):
        load_content("film")
    bad = tmp_path / "bad"
    bad.write_bytes(b"nothing")
    with pytest.raises(ContentError, match="is not screen content"):
        load_content(str(bad))
    bad.write_bytes(zstandard.compress(b""))
    with pytest.raises(ContentError, match="has no updates"):
        load_content(str(bad))


def test_a_session_is_numbered_chained_and_signed() -> None:
    age = Age.new()
    identity = Identity(RECORDER, [age.recipient], "h", "lucid-load", "run", "office")
    session = LoadSession(identity, 8, 5)
    assert 0 <= session.partition < 8
    plan = [Step(0, Kind.OPEN, -1), Step(1, Kind.FRAMES, 0), Step(2, Kind.KEEPALIVE, -1),
            Step(3, Kind.CLOSE, -1)]  # fmt: skip
    made: list[FrameRecord] = [
        session.make(one.kind, b"abc" if one.kind is Kind.FRAMES else b"", 10 - i, one.at)
        for i, one in enumerate(plan)
    ]
    assert [one.seq for one in made] == [0, 1, 2, 3]
    assert [one.time for one in made] == [10, 10, 10, 10]
    assert list(session.intended) == [0, 1, 2, 3]
    for record in made:
        key, headers, value = to_kafka(record)
        assert from_kafka(key, [*headers], value) == record
    opened = decode(Open, made[0].payload)
    assert (opened.project, opened.owner, opened.source["type"]) == ("lucid-load", "run", "load")
    close = decode(Close, made[-1].payload)
    key_bytes = session._chain_key
    chain = chain_next(made[2].chain, key_bytes, made[2])
    assert made[3].chain == chain
    committed = Commitment.parse(open_note(close.note, RECORDER.verifier))
    assert committed == Commitment(session.id, 3, chain, REASON)
    assert (close.reason, session.closed, session.frame_bytes) == (REASON, True, 3)
