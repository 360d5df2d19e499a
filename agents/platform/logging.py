"""JSON lines on standard error: one object a line, whoever logged it.

    configure("storage", "info")                     once for each process
    log = structlog.get_logger(__name__)
    log.info("chunk stored", session=…, index=…)
    with bound(session=…, partition=…, offset=…): …  in every line of this task

Each line has `time` (RFC 3339, UTC), `level`, `service`, `logger`, `event`, and what was
bound or given. An error given as `error=` adds its `code`. Secrets never get through:
bytes, SecretStr, fields named like a secret, age and Ed25519 secret keys, JWTs and passwords
in URLs are replaced, in the lines of libraries too. A library that says the same again and again,
as aiokafka does a hundred times a second while a broker is away, is heard every ten seconds.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, TextIO

import structlog
from pydantic import SecretBytes, SecretStr

from schemas.errors import LucidError

HIDDEN = "[hidden]"
MAX_DEPTH = 6
MAX_TEXT = 8192
SAME_AGAIN = 10.0
MAX_REMEMBERED = 1000
_SECRET_WORDS = frozenset(
    {"key", "keys", "secret", "secrets", "password", "passwd", "token", "tokens", "identity",
     "identities", "authorization", "cookie", "credentials"}
)  # fmt: skip
_NAMES_OF_FILES = frozenset({"path", "file", "dir", "id", "count", "size"})
_SECRET_TEXT = re.compile(
    r"AGE-SECRET-KEY-1[A-Z0-9]+|PRIVATE\+KEY\+[\w+/=+]+|(?i:(?<=bearer )[\w.~+/-]+=*)"
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JWT
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
_URL_PASSWORD = re.compile(r"(?<=://)[^/@\s'\"]*@")
# One of these is in whatever the two match, or `bearer ` in any case: looking for them takes a
# tenth of the time.
_MARKS = ("AGE-SECRET-KEY-1", "PRIVATE", "eyJ", "://")
_QUIET = ("faust", "mode", "aiokafka", "kafka", "aiohttp", "asyncio", "pymongo", "motor")

_LINE = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

Fields = MutableMapping[str, Any]


def hide(text: str) -> str:
    """A text without secret keys and without the passwords of URLs."""
    shown = text
    if any(mark in text for mark in _MARKS) or "bearer " in text.lower():
        shown = _URL_PASSWORD.sub(HIDDEN + "@", _SECRET_TEXT.sub(HIDDEN, text))
    return shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + "…"


@lru_cache(1000)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name is never shown: `wrapped_key`, but not `key_path`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().replace("-", "_").split("_")
    return bool(_SECRET_WORDS.intersection(words)) and words[-1] not in _NAMES_OF_FILES


def _shown(value: object, depth: int = 0) -> object:
    if type(value) is str:
        return hide(value) if depth < MAX_DEPTH else "…"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, SecretStr | SecretBytes):
        return HIDDEN
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {
            str(name): HIDDEN if is_secret_name(str(name)) else _shown(item, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(item, depth + 1) for item in value]
    return hide(str(value))


def add_code(_: Any, __: str, fields: Fields) -> Fields:
    """An error given as a field also says its stable name."""
    error = fields.get("error")
    if isinstance(error, BaseException):
        code = error.code if isinstance(error, LucidError) else type(error).__name__
        fields.setdefault("code", code)
    return fields


def redact(_: Any, __: str, fields: Fields) -> Fields:
    """Replace secrets; runs after everything that adds fields."""
    return {
        name: HIDDEN if is_secret_name(name) else _shown(value)
        for name, value in fields.items()
        if not name.startswith("_")
    }


def _render(_: Any, __: str, fields: Fields) -> str:
    first = ("time", "level", "service", "event")
    ordered = {name: fields.pop(name) for name in first if name in fields} | dict(fields)
    return _LINE.encode(ordered)


class TriedAgain(logging.Filter):
    """Makes a warning of what a Kafka client logs as an error although it tries it again."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        values = record.args if isinstance(record.args, tuple) else ()
        if record.levelno == logging.ERROR and any(
            getattr(one, "retriable", False) for one in values
        ):
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            return logging.getLogger().isEnabledFor(logging.WARNING)
        return True


class SameAgain(logging.Filter):
    """Passes each message of a library once in SAME_AGAIN seconds, with how often it came.

    Messages are the same when their logger and their text before formatting are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.name.split(".")[0] not in _QUIET or record.levelno >= logging.CRITICAL:
            return True
        now, name = self._clock(), (record.name, str(record.msg))
        at, left_out = self._said.get(name, (-SAME_AGAIN, 0))
        if now - at < SAME_AGAIN:
            self._said[name] = at, left_out + 1
            return False
        if len(self._said) >= MAX_REMEMBERED:
            self._said.clear()
        self._said[name] = now, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (left out since: {left_out})", ()
        return True


def configure(service: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Send every logger of this process to `stream` (standard error) as JSON lines."""

    def add_service(_: Any, __: str, fields: Fields) -> Fields:
        fields.setdefault("service", service)
        return fields

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_service,
        add_code,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(TriedAgain())
    if level.upper() != "DEBUG":
        handler.addFilter(SameAgain())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[redact, _render], use_get_message=True
        )
    )
    # No line names the process, and asking for its number twice takes a fifth of a line's time.
    logging.logProcesses = logging.logMultiprocessing = False
    _take_over(handler, level.upper())


def _take_over(handler: logging.Handler, level: str) -> None:
    """Make `handler` the only one; libraries speak from `warning` on unless in debug."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        if name.split(".")[0] in _QUIET:
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    for name in _QUIET:
        libraries = {"DEBUG": "INFO", "INFO": "WARNING"}
        logging.getLogger(name).setLevel(libraries.get(level, level))


def bound(**fields: object) -> AbstractContextManager[None]:
    """Add fields to every line that this task, and what it starts, logs meanwhile."""
    return structlog.contextvars.bound_contextvars(**fields)
