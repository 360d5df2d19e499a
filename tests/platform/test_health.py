"""What probes are told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agents.platform.health import (
    CACHE_SECONDS,
    DiskFull,
    Health,
    HealthServer,
    HomeUnwritable,
    PortTaken,
    free_disk,
    port_taken,
)
from agents.platform.metrics import Metrics
from agents.run import ServiceName


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


Get = Callable[[str], Any]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health("storage", version="1.2.3", metrics=Metrics("storage", version="1.2.3"),
                  clock=clock)  # fmt: skip


@pytest.fixture
async def server(health: Health, tmp_path: Path) -> AsyncIterator[HealthServer]:
    folder = tmp_path / "run"
    async with HealthServer(health, bind="127.0.0.1", port=0, folder=folder) as found:
        yield found


@pytest.fixture
async def get(server: HealthServer) -> AsyncIterator[Get]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:

        async def fetch(path: str) -> tuple[int, Any]:
            async with session.get(path) as response:
                text = await response.text()
                json_body = response.content_type == "application/json"
                return response.status, json.loads(text) if json_body else text

        yield fetch


async def fine() -> None:
    return None


async def ill() -> None:
    raise RuntimeError("cannot reach mongodb://me:hunter2@host/db")


async def test_a_service_is_ready_when_every_check_passes(health: Health, get: Get) -> None:
    health.add("catalog", fine)
    status, body = await get("/health/ready")
    assert (status, body["status"], body["service"]) == (200, "ok", "storage")
    assert body["checks"]["catalog"]["ok"] is True
    assert body["checks"]["catalog"]["seconds"] >= 0


async def test_one_failing_check_makes_it_not_ready_and_names_it(health: Health, get: Get) -> None:
    health.add("catalog", ill)
    health.add("disk", fine)
    status, body = await get("/health/ready")
    assert status == 503
    assert body["status"] == "failing"
    assert body["checks"]["disk"]["ok"] is True
    assert body["checks"]["catalog"]["code"] == "RuntimeError"
    assert "cannot reach" in body["checks"]["catalog"]["error"]
    assert "hunter2" not in json.dumps(body)
    status, body = await get("/health")
    assert (status, body["failing"]) == (503, ["catalog"])
    assert (await get("/health/live"))[0] == 200


async def test_what_a_service_can_do_without_is_shown_and_changes_nothing(
    health: Health, get: Get, clock: Clock
) -> None:
    health.add("redis", ill, advisory=True)
    health.add("disk", fine)
    status, body = await get("/health/ready")
    assert (status, body["status"]) == (200, "ok")
    assert body["checks"]["redis"]["ok"] is False
    assert body["checks"]["redis"]["advisory"] is True
    assert body["checks"]["redis"]["code"] == "RuntimeError"
    assert "advisory" not in body["checks"]["disk"]
    status, body = await get("/health")
    assert (status, body["failing"], body["degraded"]) == (200, [], ["redis"])
    health.remove("redis")
    health.add("redis", fine, advisory=True)
    assert (await get("/health"))[1]["degraded"] == []
    status, body = await get("/health/ready")
    assert "error" not in body["checks"]["redis"]


async def test_a_check_that_hangs_fails_by_its_timeout(health: Health, get: Get) -> None:
    health.add("catalog", asyncio.Event().wait, timeout=0.01)
    status, body = await get("/health/ready")
    assert (status, body["checks"]["catalog"]["code"]) == (503, "Timeout")


async def test_a_storm_of_probes_runs_a_check_once_a_second(
    health: Health, get: Get, clock: Clock
) -> None:
    runs: list[int] = []

    async def count() -> None:
        runs.append(1)
        await asyncio.sleep(0)

    health.add("catalog", count)
    await asyncio.gather(*(get("/health/ready") for _ in range(20)))
    assert len(runs) == 1
    clock.now += CACHE_SECONDS
    await get("/health/ready")
    assert len(runs) == 2


async def test_the_summary_says_version_and_uptime(health: Health, get: Get, clock: Clock) -> None:
    clock.now += 7
    status, body = await get("/health")
    assert status == 200
    assert (body["version"], body["uptime"], body["failing"]) == ("1.2.3", 7, [])


async def test_it_is_not_alive_once_the_main_task_has_ended(health: Health, get: Get) -> None:
    stop = asyncio.Event()
    main: asyncio.Task[object] = asyncio.create_task(stop.wait())
    health.watch(main)
    assert (await get("/health/live"))[0] == 200
    stop.set()
    await main
    assert (await get("/health/live"))[0] == 503
    assert (await get("/health/ready"))[0] == 503


async def test_a_stopping_service_lives_but_is_not_ready(health: Health, get: Get) -> None:
    health.stopping()
    assert (await get("/health/live"))[0] == 200
    status, body = await get("/health/ready")
    assert (status, body["checks"]["service"]["code"]) == (503, "Stopping")


async def test_metrics_are_prometheus_text(health: Health, get: Get) -> None:
    health.metrics.took("t", 10)
    status, text = await get("/metrics")
    assert status == 200
    assert 'lucid_records_consumed_total{service="storage",topic="t"} 1.0' in text


async def test_the_port_stands_in_a_file_while_it_listens(health: Health, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with HealthServer(health, bind="127.0.0.1", port=0, folder=folder) as server:
        facts = json.loads((folder / f"storage-{os.getpid()}.json").read_text())
        assert facts == {"service": "storage", "pid": os.getpid(), "port": server.port}
        assert server.port != 0
    assert list(folder.iterdir()) == []


async def test_a_folder_that_cannot_be_written_to_is_named(health: Health, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "run"
    with pytest.raises(HomeUnwritable, match=rf"cannot write to {place} \(Not a directory\)"):
        async with HealthServer(health, bind="127.0.0.1", port=0, folder=place):
            pass


async def test_what_checks_found_is_a_metric(health: Health, get: Get) -> None:
    async def ill() -> None:
        raise DiskFull("full")

    async def well() -> None:
        pass

    health.add("disk", ill)
    health.add("catalog", well)
    await get("/health/ready")
    _, text = await get("/metrics")
    assert 'lucid_check_ok{check="disk",service="storage"} 0.0' in text
    assert 'lucid_check_ok{check="catalog",service="storage"} 1.0' in text


def ended_pid() -> int:
    """The pid of a process that was there."""
    with subprocess.Popen(["true"]) as ended:
        return ended.pid


async def test_the_file_of_a_killed_process_goes_and_no_other(
    health: Health, tmp_path: Path
) -> None:
    pid = ended_pid()
    others = [f"storage-{os.getppid()}.json", f"other-{pid}.json", "storage-x.json"]
    for name in (f"storage-{pid}.json", *others):
        (tmp_path / name).write_text("{}")
    async with HealthServer(health, bind="127.0.0.1", port=0, folder=tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted(others)


async def test_a_taken_port_says_which_variable_to_set(
    health: Health, server: HealthServer, tmp_path: Path
) -> None:
    second = HealthServer(health, bind="127.0.0.1", port=server.port, folder=tmp_path)
    with pytest.raises(PortTaken, match="LUCID_STORAGE_PORT"):
        await second.__aenter__()


async def test_free_space_is_looked_up_where_the_folder_will_be(tmp_path: Path) -> None:
    await free_disk([tmp_path / "not" / "yet"], least=1)()
    with pytest.raises(DiskFull, match="LUCID_MIN_FREE"):
        await free_disk([tmp_path], least=1 << 60)()


def test_a_check_has_one_name(health: Health) -> None:
    health.add("catalog", fine)
    with pytest.raises(ValueError, match="catalog"):
        health.add("catalog", fine)
    health.remove("catalog")
    health.add("catalog", fine)


@pytest.mark.parametrize("service", list(ServiceName))
def test_a_taken_port_names_a_setting_that_there_is(service: ServiceName) -> None:
    error = port_taken(service.value, "127.0.0.1", 8085, OSError(98, "Address already in use"))
    named = error.hint.split()[1]
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert f"| `{named}` |" in page.read_text()
