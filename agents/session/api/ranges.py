"""Byte ranges (RFC 9110, 14): one at a time; what else a header says gets the whole file."""

from __future__ import annotations

import re

from starlette.requests import Request

from agents.session.api.problems import ApiProblem, Code

_ONE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE | re.ASCII)


def check_range(request: Request, size: int, tag: str) -> None:
    """Raise ApiProblem for a range that a file of `size` bytes does not have.

    A header that is no single range of bytes, or stands beside an If-Range of another
    representation, is taken out of the request.
    """
    header = request.headers.get("range")
    if header is None:
        return
    match = _ONE.fullmatch(header.strip())
    other = request.headers.get("if-range", f'"{tag}"') != f'"{tag}"'
    if match is None or other or match[0].endswith("=-") or _backwards(match):
        request.scope["headers"] = [
            one for one in request.scope["headers"] if one[0] != b"range"
        ]  # fmt: skip
        return
    first, last = match[1], match[2]
    if int(first) >= size if first else int(last) == 0:
        raise ApiProblem(
            Code.RANGE_UNSATISFIABLE, f"the file has {size} bytes, 0 to {size - 1}",
            headers={"Content-Range": f"bytes */{size}"},
        )  # fmt: skip


def _backwards(match: re.Match[str]) -> bool:
    return bool(match[1] and match[2]) and int(match[1]) > int(match[2])
