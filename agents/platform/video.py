"""Screen recordings to look at: MP4 (H.264, by PyAV) and contact sheets (PNG, by Pillow).

LucidError
└── NoPictures      the payloads never give a whole picture
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from schemas.errors import LucidError
from schemas.screen import Screen, pictures

CLOCK = Fraction(1, 1000)  # of a video: frames carry milliseconds, and an idle screen none
THUMBNAIL = 400  # pixels of width
COLUMNS = 4
MARGIN = 12
LABEL = 18

Payloads = Iterable[tuple[int, bytes]]


class NoPictures(LucidError):
    """A recording has no whole picture."""

    exit_status = 65


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """seconds: from the first picture to the end, up to which the last one is shown."""

    pictures: int
    seconds: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """moments: pictures on the sheet. seconds: from the first picture to the last."""

    moments: int
    seconds: float
    width: int
    height: int


def write_video(
    payloads: Payloads, path: Path, *, fps: float = 10.0, end: Callable[[], int] = lambda: 0
) -> VideoFacts:
    """Write an MP4 of at most `fps` pictures a second; raises FormatError and NoPictures.

    end: asked after the last payload for the time, in microseconds, up to which a screen that
    no longer changed is shown.
    """
    with av.open(str(path), "w", format="mp4") as container:
        stream = None
        first = last = count = 0
        for time, screen in _spaced(payloads, round(1_000_000 / fps)):
            picture = screen.picture()
            if stream is None:
                first = time
                stream = container.add_stream("libx264", rate=round(fps))
                stream.width, stream.height = _even(picture)
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = CLOCK
                stream.options = {"crf": "20", "preset": "veryfast"}
            last, count = time, count + 1
            _encode(container, stream, picture, (time - first) // 1000)
        if stream is None:
            raise _nothing()
        if end() >= last + 1000:
            last = end()
            _encode(container, stream, picture, (last - first) // 1000)
        container.mux(stream.encode(None))
        return VideoFacts(count, (last - first) / 1e6, stream.width, stream.height)


def _even(picture: NDArray[np.uint8]) -> tuple[int, int]:
    """Width and height as H.264 takes them."""
    height, width = picture.shape[:2]
    return max(2, width & ~1), max(2, height & ~1)


def _encode(
    container: av.container.OutputContainer, stream: av.VideoStream,
    picture: NDArray[np.uint8], milliseconds: int,
) -> None:  # fmt: skip
    """One picture; a screen that has changed its size is put into the first one's corner."""
    fitted = np.zeros((stream.height, stream.width, 3), np.uint8)
    height, width = (min(a, b) for a, b in zip(fitted.shape, picture.shape[:2], strict=False))
    fitted[:height, :width] = picture[:height, :width]
    frame = av.VideoFrame.from_ndarray(fitted, format="bgr24")
    frame.pts, frame.time_base = milliseconds, CLOCK
    container.mux(stream.encode(frame))


def _spaced(payloads: Payloads, least: int) -> Iterator[tuple[int, Screen]]:
    """Pictures at least so many microseconds apart, and the last one."""
    due, held = None, None
    for time, screen in pictures(payloads):
        held = (time, screen)
        if due is None or time >= due:
            due = time + least
            held = None
            yield time, screen
    if held is not None:
        yield held


def write_contact_sheet(
    payloads: Payloads, path: Path, *, moments: int = 12, title: str = ""
) -> SheetFacts:
    """Write a PNG of moments evenly over the recording; raises FormatError and NoPictures."""
    thumbnails = _thumbnails(payloads, moments)
    if not thumbnails:
        raise _nothing()
    start, end = thumbnails[0][0], thumbnails[-1][0]
    wanted = [start + (end - start) * step // max(moments - 1, 1) for step in range(moments)]
    chosen = sorted({min(thumbnails, key=lambda one: abs(one[0] - at))[0] for at in wanted})
    images = [(time, image) for time, image in thumbnails if time in chosen]
    sheet = _lay_out(images, title)
    sheet.save(path, "PNG")
    return SheetFacts(len(images), (end - start) / 1e6, *sheet.size)


def _thumbnails(payloads: Payloads, moments: int) -> list[tuple[int, Image.Image]]:
    """At most 8 times as many small pictures as moments, evenly over time."""
    found: list[tuple[int, Image.Image]] = []
    interval, due, held = 250_000, None, None
    for time, screen in pictures(payloads):
        if due is not None and time < due:
            held = (time, screen)
            continue
        due, held = time + interval, None
        found.append((time, _small(screen)))
        if len(found) > 8 * moments:
            found, interval = found[::2], interval * 2
    if held is not None:
        found.append((held[0], _small(held[1])))
    return found


def _small(screen: Screen) -> Image.Image:
    picture = np.ascontiguousarray(screen.picture()[:, :, ::-1])
    image = Image.fromarray(picture)
    height = max(1, image.height * THUMBNAIL // image.width)
    return image.resize((THUMBNAIL, height), Image.Resampling.LANCZOS)


def _lay_out(images: list[tuple[int, Image.Image]], title: str) -> Image.Image:
    rows = -(-len(images) // COLUMNS)
    tall = max(image.height for _, image in images)
    columns = min(COLUMNS, len(images))
    top = MARGIN + (LABEL + MARGIN if title else 0)
    sheet = Image.new(
        "RGB",
        (MARGIN + columns * (THUMBNAIL + MARGIN), top + rows * (tall + LABEL + MARGIN)),
        (32, 34, 38),
    )
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN), title, fill=(235, 235, 235))
    for number, (time, image) in enumerate(images):
        x = MARGIN + number % COLUMNS * (THUMBNAIL + MARGIN)
        y = top + number // COLUMNS * (tall + LABEL + MARGIN)
        sheet.paste(image, (x, y))
        label = f"{(time - images[0][0]) / 1e6:.1f} s"
        draw.text((x, y + image.height + 3), label, fill=(170, 175, 180))
    return sheet


def _nothing() -> NoPictures:
    return NoPictures("the recording has no whole picture", hint="Was anything captured?")
