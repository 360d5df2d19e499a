"""Real process trees measured: processors, memory, connections, those that come, go and stay."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agents.rdp.monitor import sampler as module
from agents.rdp.monitor.disk import Disk
from agents.rdp.monitor.processes import PAGE, TICKS, Ref, read_stat, read_table
from agents.rdp.monitor.sampler import Sampler, folders_of
from agents.rdp.monitor.sockets import NoSocketCounts, Socket, read_sockets
from agents.rdp.monitor.targets import ServerTarget, SessionTarget
from schemas.rdp_metrics import MIB, MeasuredLimits, ServerMetrics
from tests.rdp.monitor.trees import Tree, a_tree
from tests.waiting import wait_for

S1, S2 = "01a20c5b-f2fa-7557-ac1e-5c3397094c01", "01a20c5b-f2fa-7557-ac1e-5c3397094c02"
R1, R2, R3, R4 = (f"01a20c5b-f2fa-7557-ac1e-5c3397094c1{number}" for number in (1, 2, 3, 4))
LIMITS = MeasuredLimits(cpu=1.0, memory=512 * MIB, disk=1024**3)


@dataclass
class Clock:
    """A monotonic clock that tests set."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """A sampler whose clock stands still between rounds."""

    clock: Clock
    sampler: Sampler

    def round(self, *servers: ServerTarget, seconds: float = 10.0) -> list[ServerMetrics]:
        self.clock.now += seconds
        return self.sampler.sample(servers)


@pytest.fixture
def house() -> House:
    clock = Clock()
    return House(clock, Sampler(host="desk7", disk=Disk(), clock=clock))


@pytest.fixture
def root() -> Iterator[Tree]:
    with a_tree() as found:
        yield found


def server(*roots: Ref, name: str = S1, sessions: tuple[SessionTarget, ...] = ()) -> ServerTarget:
    return ServerTarget(name, roots, LIMITS, None, sessions)


def test_a_tree_is_its_root_and_all_that_descends_from_it(house: House) -> None:
    with a_tree(children=3) as one, a_tree(children=1) as other:
        found = house.round(server(one.ref), server(other.ref, name=S2))
        assert [sample.usage.processes for sample in found] == [4, 2]
        assert [sample.usage.threads for sample in found] == [4, 2]
        assert [sample.server for sample in found] == [S1, S2]
        assert found[0].host == "desk7"
        assert not found[0].partial
        one.tell("kill")
        assert house.round(server(one.ref))[0].usage.processes == 3


def test_the_first_sample_knows_no_interval(house: House, root: Tree) -> None:
    (first,) = house.round(server(root.ref))
    assert first.seconds is None
    assert first.usage.cpu is None
    assert first.usage.sent is None
    assert first.usage.connections == 0
    (second,) = house.round(server(root.ref), seconds=5)
    assert second.seconds == 5.0
    assert second.usage.sent == 0


def test_processors_are_what_the_living_and_the_reaped_used(house: House, root: Tree) -> None:
    house.round(server(root.ref))
    root.tell("burn 0.3")
    (burnt,) = house.round(server(root.ref), seconds=1)
    assert burnt.usage.cpu == pytest.approx(0.3, abs=0.05)
    root.tell("reaped 0.3")
    (reaped,) = house.round(server(root.ref), seconds=1)
    assert reaped.usage.cpu == pytest.approx(0.3, abs=0.06)
    (idle,) = house.round(server(root.ref), seconds=1)
    assert idle.usage.cpu == pytest.approx(0.0, abs=0.02)


def test_what_a_server_used_before_the_monitor_looked_is_not_in_the_interval(
    house: House, root: Tree
) -> None:
    root.tell("burn 0.3")
    house.round()
    (late,) = house.round(server(root.ref), seconds=1)
    assert late.usage.cpu == pytest.approx(0.0, abs=0.02)


def test_memory_is_what_the_tree_holds_and_shared_pages_count_once(house: House) -> None:
    with a_tree(children=8) as one:
        (before,) = house.round(server(one.ref))
        table = read_table(0)
        rss = sum(stat.rss for stat in table.by_pid.values() if stat.ref.pid == one.process.pid
                  or stat.parent == one.process.pid)  # fmt: skip
        assert before.usage.memory < rss * 0.8
        one.tell(f"hold {64 * MIB}")
        (after,) = house.round(server(one.ref))
        assert after.usage.memory - before.usage.memory == pytest.approx(64 * MIB, rel=0.05)


def test_a_process_that_nobody_has_reaped_is_none_but_for_its_time(house: House) -> None:
    with a_tree() as root:
        house.round(server(root.ref))
        root.tell("zombie 0.2")
        (sample,) = house.round(server(root.ref), seconds=1)
        assert (sample.usage.processes, sample.usage.threads, sample.vanished) == (1, 1, 0)
        assert sample.usage.cpu == pytest.approx(0.2, abs=0.05)
        root.tell("wait")
        (sample,) = house.round(server(root.ref), seconds=1)
        assert sample.usage.cpu == pytest.approx(0.0, abs=0.02)


def test_a_session_is_part_of_its_server(house: House) -> None:
    with a_tree(children=2) as xrdp, a_tree(children=3) as desktop:
        session = SessionTarget(R1, (desktop.ref,))
        target = server(xrdp.ref, sessions=(session,))
        house.round(target)
        desktop.tell("burn 0.2")
        (sample,) = house.round(target, seconds=1)
        assert sample.usage.processes == 7
        (part,) = sample.sessions
        assert (part.session, part.usage.processes) == (R1, 4)
        assert part.usage.cpu == pytest.approx(0.2, abs=0.05)
        assert sample.usage.cpu == pytest.approx(part.usage.cpu, abs=0.02)
        assert part.usage.memory < sample.usage.memory


def test_a_session_has_all_that_its_process_of_sesman_started(house: House) -> None:
    with a_tree(children=4) as sesman, a_tree(children=1) as client:
        table = read_table(0)
        below = [stat.ref for stat in table.by_pid.values() if stat.parent == sesman.process.pid]
        whole = SessionTarget(R1, (below[0], below[1]), (client.ref,))
        above = read_table(0).by_pid[os.getpid()].ref
        (sample,) = house.round(server(above, sessions=(whole,)))
        assert sample.sessions[0].usage.processes == 7
        elsewhere = replace(whole, session=R4)
        (sample,) = house.round(server(sessions=(elsewhere,), name=S2))
        assert sample.sessions[0].usage.processes == 4
        own = server(sesman.ref, sessions=(replace(whole, session=R2),))
        (sample,) = house.round(own)
        assert sample.sessions[0].usage.processes == 4
        gone = SessionTarget(R3, (below[0], Ref(below[1].pid, 1)))
        (sample,) = house.round(server(sessions=(gone,)))
        assert sample.sessions[0].usage.processes == 1


def test_a_reused_pid_is_no_member(house: House, root: Tree) -> None:
    stranger = Ref(root.ref.pid, root.ref.started - 1)
    (sample,) = house.round(server(stranger))
    assert (sample.usage.processes, sample.usage.memory) == (0, 0)


def test_a_program_whose_parent_ended_stays_with_its_server(house: House, root: Tree) -> None:
    pid = int(root.tell("orphan", "orphan").split()[1])
    assert house.round(server(root.ref))[0].usage.processes == 3
    root.tell("let")
    wait_for(lambda: parent_of(pid) != root.process.pid, "orphan")
    (sample,) = house.round(server(root.ref))
    assert sample.usage.processes == 2
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: read_stat(pid) is None, "end of it")
    assert house.round(server(root.ref))[0].usage.processes == 1


def parent_of(pid: int) -> int | None:
    found = read_stat(pid)
    return found.parent if found else None


def test_a_daemon_belongs_to_the_session_on_whose_display_it_was_started(house: House) -> None:
    with a_tree() as root:
        me = os.getuid()
        mine = SessionTarget(R1, (root.ref,), uid=me, display=":4711")
        other = SessionTarget(R2, (root.ref,), uid=me, display=":4712")
        stranger = SessionTarget(R3, (root.ref,), uid=me + 1, display=":4711")
        unknown = SessionTarget(R4, (root.ref,), display=":4711")
        target = server(root.ref, sessions=(mine, other, stranger, unknown))
        house.round(target)
        daemon = int(root.tell("daemon unix:4711.0", "daemon").split()[1])
        found: list[ServerMetrics] = []

        def adopted() -> bool:
            found[:] = house.round(target)
            return found[0].usage.processes == 2

        try:
            wait_for(adopted, "daemon in the tree")
            assert parent_of(daemon) != root.process.pid
            (sample,) = found
            assert [one.usage.processes for one in sample.sessions] == [2, 1, 1, 1]
        finally:
            os.kill(daemon, signal.SIGKILL)


def test_bytes_and_connections_are_the_kernels(house: House, root: Tree) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        house.round(server(root.ref))
        root.tell(f"send {listening.getsockname()[1]} 100000")
        link, _ = listening.accept()
        with link:
            taken = 0
            while taken < 100_000:
                taken += len(link.recv(65536))
            link.sendall(b"y" * 5000)

            def acknowledged() -> bool:
                sockets = read_sockets()
                return any(one.traffic.received == 5000 and one.traffic.sent == 100_000
                           for one in sockets.values())  # fmt: skip

            wait_for(acknowledged, "last acknowledgement")
            (sample,) = house.round(server(root.ref))
            usage = sample.usage
            assert (usage.connections, usage.sent, usage.received) == (1, 100_000, 5000)
            assert (usage.packets_sent or 0) >= 2
            assert (usage.packets_received or 0) >= 2
            (again,) = house.round(server(root.ref))
            assert (again.usage.connections, again.usage.sent, again.usage.received) == (1, 0, 0)


def test_without_socket_counts_everything_else_is_measured(root: Tree) -> None:
    clock, answers = Clock(), [NoSocketCounts("no netlink")] * 2

    def sockets() -> dict[int, Socket]:
        if answers:
            raise answers.pop()
        return read_sockets()

    house = House(clock, Sampler(host="h", disk=Disk(), clock=clock, sockets=sockets))
    for _ in range(2):
        (sample,) = house.round(server(root.ref))
        assert (sample.usage.connections, sample.usage.sent) == (None, None)
        assert sample.usage.processes == 1
        assert isinstance(house.sampler.problem, NoSocketCounts)
    (back,) = house.round(server(root.ref))
    assert (back.usage.connections, back.usage.sent) == (0, None)
    assert house.sampler.problem is None
    assert house.round(server(root.ref))[0].usage.sent == 0


def test_a_process_that_ends_while_it_is_looked_at_is_counted_as_vanished(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_tree(children=2) as root:
        real: Callable[..., dict[int, Socket]] = house.sampler._read_sockets

        def after_the_table() -> dict[int, Socket]:
            root.tell("kill")
            return real()

        monkeypatch.setattr(house.sampler, "_read_sockets", after_the_table)
        (sample,) = house.round(server(root.ref))
        assert (sample.usage.processes, sample.vanished) == (3, 1)
        assert sample.usage.memory > 0


def test_what_nobody_may_read_makes_a_sample_partial(
    house: House, root: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(pid: int, proc: Path) -> set[int]:
        raise PermissionError

    monkeypatch.setattr(module, "inodes_of", refused)
    (sample,) = house.round(server(root.ref))
    assert sample.partial
    monkeypatch.setattr(module, "inodes_of", lambda pid, proc: set())
    monkeypatch.setattr(module, "memory_of", lambda stat, proc: (stat.rss, False))
    (sample,) = house.round(server(root.ref))
    assert sample.partial
    assert sample.usage.memory == read_stat(root.process.pid).rss  # type: ignore[union-attr]


def test_disk_is_that_of_the_folder_and_of_the_homes(
    root: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = tmp_path / "run", tmp_path / "home"
    for path, size in ((folder, 10), (home, 100)):
        path.mkdir()
        (path / "file").write_bytes(b"x" * size * PAGE)
    monkeypatch.setattr(module, "_home", {7: home, 8: None}.get)
    clock, disk = Clock(), Disk()
    house = House(clock, Sampler(host="h", disk=disk, clock=clock))
    target = replace(
        server(root.ref, sessions=(SessionTarget(R1, (), uid=7), SessionTarget(R2, (), uid=8))),
        folder=folder,
    )
    assert folders_of(target) == {folder, home}
    (before,) = house.round(target)
    assert before.usage.disk is None
    disk.want(folders_of(target))
    disk.step(1000, clock())
    (after,) = house.round(target)
    assert after.usage.disk is not None
    assert after.usage.disk >= 110 * PAGE
    assert after.sessions[0].usage.disk == disk.size([home])[0]
    assert after.sessions[1].usage.disk is None
    assert not after.partial


def test_ticks_are_the_kernels_own() -> None:
    found = read_stat(os.getpid())
    assert found is not None
    assert found.parent == os.getppid()
    assert found.own / TICKS == pytest.approx(sum(os.times()[:2]), abs=0.05)
    assert read_stat(2**22 + 1) is None
