"""The anchor client of examples/, killed and started again: each anchor once, with a receipt."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from agents.platform.contract import Contract, load_contract
from agents.platform.producer import Producer
from agents.platform.settings import Settings
from agents.platform.topic_reader import read_topic
from examples import anchor_to_file
from examples.anchor_to_file import Ledger, LedgerProblem
from schemas.anchors import Anchor, read_anchor
from schemas.canonical import encode
from schemas.receipts import ReceiptEvent, fits
from schemas.sessions import new_session_id
from tests.conftest import Stack
from tests.platform.topics import create_topic
from tests.waiting import wait_for

VECTORS = Path(__file__).parents[1] / "vectors"
CLOSED = read_anchor((VECTORS / "closed" / "anchor.json").read_bytes())
SCRIPT = Path(anchor_to_file.__file__)


def anchors(count: int) -> list[Anchor]:
    """So many sessions' anchors."""
    found = []
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        changes = {"session": str(new_session_id()), "manifest_hash": digest}
        found.append(CLOSED.model_copy(update=changes))
    return found


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


# The file -------------------------------------------------------------------------------------


def test_an_anchor_that_comes_again_is_the_same_line(tmp_path: Path) -> None:
    path, (one, two) = tmp_path / "ledger", anchors(2)
    with closing(Ledger(path)) as ledger:
        first = ledger.add(one)
        ledger.add(two)
        assert ledger.add(one) == first
    with closing(Ledger(path)) as ledger:
        assert ledger.add(one) == first
        assert len(lines(path)) == 2
        other = ledger.add(one.model_copy(update={"manifest_hash": "0" * 64}))
    previous = "0" * 64
    for number, line in enumerate(lines(path)):
        fields = json.loads(line)
        assert (fields["number"], fields["previous"]) == (number, previous)
        previous = hashlib.sha256(line).hexdigest()
    assert other[1] == previous
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_was_cut_off_by_a_crash_is_written_again(tmp_path: Path) -> None:
    path, (one, two) = tmp_path / "ledger", anchors(2)
    with closing(Ledger(path)) as ledger:
        ledger.add(one)
        whole = path.read_bytes()
        ledger.add(two)
    path.write_bytes(path.read_bytes()[:-9])
    with closing(Ledger(path)) as ledger:
        assert path.read_bytes() == whole
        assert ledger.add(two)[0].number == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b'"owner":"ada"', b'"owner":"eve"', 1),
        lambda data: data.split(b"\n", 1)[1],
        lambda data: data[:5] + data[6:],
        lambda data: b"".join(reversed(data.splitlines(keepends=True))),
    ],
    ids=["changed", "removed", "noise", "moved"],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger"
    with closing(Ledger(path)) as ledger:
        for anchor in anchors(3):
            ledger.add(anchor)
    assert anchor_to_file.main(["--check", str(path)]) == 0
    assert "3 anchors" in capsys.readouterr().out
    data = damage(path.read_bytes())
    path.write_bytes(data)
    assert anchor_to_file.main(["--check", str(path)]) == 65
    assert "line" in capsys.readouterr().err
    assert path.read_bytes() == data


def test_two_clients_cannot_have_one_file(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger")), pytest.raises(LedgerProblem) as caught:
        Ledger(tmp_path / "ledger")
    assert caught.value.status == 75


def test_without_a_broker_the_client_says_so(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "ledger"), "--kafka", "127.0.0.1:1"]
    assert anchor_to_file.main(arguments) == 69


# On a real broker -----------------------------------------------------------------------------


class Client:
    """The client as a process, and the topics it works on."""

    def __init__(self, stack: Stack, path: Path) -> None:
        prefix = f"an{uuid4().hex[:8]}."
        self.settings = Settings.load(home=path, kafka=stack.kafka, topic_prefix=prefix)
        self.contract: Contract = load_contract(self.settings)
        self.path = path / "ledger.jsonl"
        self.running: subprocess.Popen[bytes] | None = None
        for name in ("session.anchors", "session.anchor_receipts"):
            asyncio.run(create_topic(self.settings, prefix + name, 1))

    def start(self) -> subprocess.Popen[bytes]:
        settings = self.settings
        self.running = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(self.path), "--kafka", str(settings.kafka),
             "--prefix", settings.topic_prefix, "--group", f"{settings.topic_prefix}g"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return self.running

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """End the process; its status and what it said."""
        process, self.running = self.running, None
        assert process is not None
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        return process.returncode, said.decode()

    def put(self, values: list[bytes]) -> None:
        async def send() -> None:
            topic = self.contract.topic("session.anchors").full_name
            async with Producer(self.settings, self.contract.limits) as producer:
                sendings = [await producer.submit(topic, value, key=b"k") for value in values]
                for sending in sendings:
                    await producer.acknowledged(sending)

        asyncio.run(send())

    def receipts(self) -> list[ReceiptEvent]:
        async def read() -> list[ReceiptEvent]:
            topic = self.contract.topic("session.anchor_receipts").full_name
            return [
                ReceiptEvent.from_kafka(raw.key, raw.headers, raw.value)
                async for raw in read_topic(self.settings, topic)
            ]

        return asyncio.run(read())

    def until(self, look: Callable[[], bool], what: str) -> None:
        assert (running := self.running) is not None

        def there() -> bool:
            found = look()
            assert found or running.poll() is None, running.communicate()
            return found

        wait_for(there, what, 60, every=0.005)


@pytest.fixture
def client(stack: Stack, tmp_path: Path) -> Iterator[Client]:
    found = Client(stack, tmp_path)
    try:
        yield found
    finally:
        if found.running is not None:
            found.end(signal.SIGKILL)


def test_a_client_that_is_killed_has_each_anchor_once_and_a_receipt_of_each(client: Client) -> None:
    sent = [CLOSED, *anchors(299)]
    values = [encode(anchor) for anchor in sent]
    client.put([*values[:10], b"noise", *values[10:], values[3]])
    kills = 0
    for least in (5, 60):
        client.start()
        client.until(lambda least=least: len(lines(client.path)) >= least, "lines")  # type: ignore[misc]
        assert client.end(signal.SIGKILL)[0] == -signal.SIGKILL
        kills += len(lines(client.path)) < len(sent)
    assert kills, "it was killed while there was work"
    with client.path.open("ab") as file:
        file.write(b'{"anchor":{"half')
    client.start()
    client.until(lambda: len(client.receipts()) >= 300, "receipts")
    client.until(lambda: len({event.id for event in client.receipts()}) == 300, "receipts")
    status, said = client.end(signal.SIGTERM)
    assert (status, "Traceback" in said) == (0, False)

    entries = [json.loads(line) for line in lines(client.path)]
    assert [entry["anchor"]["session"] for entry in entries] == [one.session for one in sent]
    receipts = {event.subject: event for event in client.receipts()}
    assert receipts.keys() == {anchor.session for anchor in sent}
    for number, line in enumerate(lines(client.path)):
        receipt = receipts[sent[number].session].receipt
        assert receipt.reference == f"line {number}, SHA-256 {hashlib.sha256(line).hexdigest()}"
        assert receipt.manifest_hash == sent[number].manifest_hash
    again = {(event.id, event.data.model_dump_json(), event.time) for event in client.receipts()}
    assert len(again) == 300, "a receipt that is sent again is the same one"
    manifest = (VECTORS / "closed" / "manifest.json").read_bytes()
    assert fits(receipts[CLOSED.session].receipt, CLOSED.session, manifest)


def test_what_is_no_anchor_is_told_and_passed_over(client: Client) -> None:
    client.put([b"noise", b"{}", encode(CLOSED)])
    client.start()
    client.until(lambda: len(client.receipts()) == 1, "receipt")
    status, said = client.end(signal.SIGINT)
    assert status == 0
    assert said.count("is no anchor") == 2
    client.put([encode(anchors(1)[0])])
    client.start()
    client.until(lambda: len(client.receipts()) == 2, "second receipt")
    status, said = client.end(signal.SIGTERM)
    assert (status, said) == (0, ""), "the offsets before were committed"
