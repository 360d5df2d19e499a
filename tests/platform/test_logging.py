"""Log lines: JSON, complete, and without secrets."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from agents.platform import logging as module
from agents.platform.logging import (
    HIDDEN,
    SAME_AGAIN,
    SameAgain,
    bound,
    configure,
    hide,
    is_secret_name,
)
from agents.platform.retry import BrokerUnreachable

SECRET = "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"


class Lines(io.StringIO):
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def only(self) -> dict[str, Any]:
        (line,) = self.all()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = Lines()
    configure("storage", "info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_a_line_has_time_level_service_and_event(lines: Lines) -> None:
    structlog.get_logger("x").info("chunk stored", session="s", index=3)
    line = lines.only()
    assert (line["level"], line["service"], line["event"]) == ("info", "storage", "chunk stored")
    assert (line["session"], line["index"]) == ("s", 3)
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


def test_bound_fields_are_in_every_line_of_the_block_only(lines: Lines) -> None:
    with bound(session="s", partition=4):
        structlog.get_logger("x").info("in")
        logging.getLogger("somebody").warning("in too")
    structlog.get_logger("x").info("out")
    first, second, third = lines.all()
    assert first["partition"] == second["partition"] == 4
    assert "partition" not in third


@pytest.mark.parametrize("name", ["faust.app", "aiokafka.consumer", "mode.services"])
def test_libraries_speak_in_the_same_form_from_warning_on(lines: Lines, name: str) -> None:
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("topic %s is gone", "x")
    line = lines.only()
    assert (line["event"], line["logger"], line["level"]) == ("topic x is gone", name, "warning")


def test_what_a_kafka_client_tries_again_is_a_warning_and_its_other_errors_stay(
    lines: Lines,
) -> None:
    log = logging.getLogger("aiokafka.consumer.group_coordinator")
    log.error("Group Coordinator Request failed: %s", GroupCoordinatorNotAvailableError())
    log.error("Request to %s failed: %s", 1, GroupAuthorizationFailedError("group"))
    log.error("Nothing more is known")
    assert [line["level"] for line in lines.all()] == ["warning", "error", "error"]


def test_python_warnings_are_lines_too(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "old" in lines.only()["event"]


def test_an_error_says_its_code_and_an_exception_its_traceback(lines: Lines) -> None:
    error = BrokerUnreachable("no broker", hint="Start it")
    structlog.get_logger("x").error("stopping", error=error)
    try:
        raise ValueError("two\nlines")
    except ValueError as other:
        structlog.get_logger("x").exception("broken", error=other)
    first, second = lines.all()
    assert (first["code"], first["error"]) == ("BrokerUnreachable", "no broker. Start it")
    assert second["code"] == "ValueError"
    assert "Traceback" in second["exception"]


def test_secrets_are_never_printed(lines: Lines) -> None:
    structlog.get_logger("x").info(
        f"using {SECRET}",
        data=b"hunter2",
        settings={"mongo": SecretStr("hunter2"), "nested": [{"password": "hunter2"}]},
        wrapped_key="hunter2",
        apiToken="hunter2",
        identity="hunter2",
        url="mongodb://me:hunter2@host/db",
        header="Bearer hunter2",
        note="PRIVATE+KEY+lucid+hunter2+aGVsbG8=",
        shown="eyJhbGciOiJFZERTQSJ9.hunter2.hunter2",
    )
    logging.getLogger("pymongo").warning("cannot reach %s", "mongodb://me:hunter2@host/db")
    try:
        raise RuntimeError(f"bad identity {SECRET}")
    except RuntimeError:
        structlog.get_logger("x").exception("broken")
    text = lines.getvalue()
    assert "hunter2" not in text
    assert SECRET not in text
    assert HIDDEN in lines.all()[0]["event"]
    assert lines.all()[0]["data"] == "[7 bytes]"
    assert lines.all()[0]["url"] == f"mongodb://{HIDDEN}@host/db"


@pytest.mark.parametrize(
    ("name", "secret"),
    [("key", True), ("wrapped-key", True), ("sessionKey", True), ("tokens", True),
     ("key_path", False), ("key_id", False), ("monkey", False), ("partition", False)],
)  # fmt: skip
def test_names_of_secrets_are_known_by_their_words(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_a_text_keeps_what_is_not_secret() -> None:
    assert hide("http://host/a@b and me@host") == "http://host/a@b and me@host"
    assert len(hide("x" * 100_000)) < 10_000


def test_what_is_not_json_is_still_one_line(lines: Lines) -> None:
    deep: dict[str, Any] = {}
    deep["self"] = deep
    structlog.get_logger("x").info(
        "odd\nevent", deep=deep, where=io.StringIO, both={1}, odd=float("nan")
    )
    line = lines.only()
    assert line["event"] == "odd\nevent"
    assert (line["both"], line["odd"]) == ([1], "nan")


def test_debug_lines_are_left_out_unless_asked_for(lines: Lines) -> None:
    structlog.get_logger("x").debug("detail")
    assert lines.all() == []
    configure("storage", "debug", lines)
    structlog.get_logger("x").debug("detail")
    assert lines.only()["event"] == "detail"


def test_a_library_that_repeats_itself_is_heard_once_and_our_own_lines_always(lines: Lines) -> None:
    for node in range(50):
        logging.getLogger("aiokafka").error("Unable connect to node with id %s", node)
        logging.getLogger("aiokafka.consumer").error("Unable to update metadata")
        structlog.get_logger("agents.x").warning("refused")
    events = [line["event"] for line in lines.all()]
    assert events.count("refused") == 50
    assert [one for one in events if one != "refused"] == [
        "Unable connect to node with id 0",
        "Unable to update metadata",
    ]


def test_what_was_left_out_is_counted_in_the_next_line() -> None:
    now = 100.0
    sieve = SameAgain(lambda: now)

    def said(node: int) -> str | None:
        record = logging.LogRecord("aiokafka", logging.ERROR, "", 0, "no node %s", (node,), None)
        return record.getMessage() if sieve.filter(record) else None

    assert [said(1), said(2), said(3)] == ["no node 1", None, None]
    now += SAME_AGAIN
    assert said(4) == "no node 4 (left out since: 2)"
    assert said(5) is None
    now += SAME_AGAIN
    assert said(6) == "no node 6 (left out since: 1)"


@given(
    st.lists(
        st.sampled_from(
            ["AGE-SECRET-KEY-1QQ", "PRIVATE+KEY+a+b+c", "Bearer abc", "bEARER x.y", "eyJa.b.c", " ",
             "-----BEGIN EC PRIVATE KEY-----", "-----END EC PRIVATE KEY-----", "a://b:c@d", "\n"]
        )
        | st.text(max_size=5)
    ).map("".join)
)  # fmt: skip
def test_nothing_that_the_patterns_match_is_passed_over(text: str) -> None:
    searched = module._URL_PASSWORD.sub(HIDDEN + "@", module._SECRET_TEXT.sub(HIDDEN, text))
    assert hide(text) == searched
