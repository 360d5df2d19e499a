"""The cache of downloads and builds, and what the recipes check."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.platform.stack import ferretdb, kafka
from agents.platform.stack.cache import RECIPES, cache_folder, cached, run_build
from agents.platform.stack.errors import BuildFailed, StackBusy
from agents.platform.stack.locks import file_lock
from agents.platform.stack.server import NotReady
from agents.platform.tools import MissingTool


def silent(_step: str) -> None:
    pass


def has_file(folder: Path) -> bool:
    return (folder / "file").exists()


def test_the_setting_then_xdg_then_home_names_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(tmp_path / "own") == tmp_path / "own"
    assert cache_folder(None) == tmp_path / "xdg" / "lucid"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder(None) == tmp_path / ".cache" / "lucid"


def test_what_is_cached_is_not_built_again(tmp_path: Path) -> None:
    builds = []

    def build(folder: Path) -> None:
        builds.append(folder)
        (folder / "file").write_text("x")

    for _ in range(2):
        found = cached(tmp_path, "a-1", build=build, complete=has_file, progress=silent)
        assert (found / "file").read_text() == "x"
    assert len(builds) == 1


def test_a_failed_build_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise BuildFailed("no network")

    with pytest.raises(BuildFailed, match="no network"):
        cached(tmp_path, "a-1", build=broken, complete=has_file, progress=silent)
    assert [p.name for p in tmp_path.iterdir()] == [".a-1.lock"]
    with pytest.raises(BuildFailed, match="not complete"):
        cached(tmp_path, "a-1", build=lambda f: None, complete=has_file, progress=silent)


def test_an_incomplete_entry_is_built_anew(tmp_path: Path) -> None:
    (tmp_path / "a-1").mkdir()
    (tmp_path / "a-1" / "stale").write_text("x")
    found = cached(
        tmp_path,
        "a-1",
        build=lambda folder: (folder / "file").touch(),
        complete=has_file,
        progress=silent,
    )
    assert [p.name for p in found.iterdir()] == ["file"]


def test_two_first_runs_at_once_build_once(tmp_path: Path) -> None:
    builds: list[Path] = []
    entered, second_waits = threading.Event(), threading.Event()

    def build(folder: Path) -> None:
        builds.append(folder)
        entered.set()
        assert second_waits.wait(10)
        (folder / "file").touch()

    def run(progress: object) -> None:
        cached(tmp_path, "a-1", build=build, complete=has_file, progress=progress)  # type: ignore[arg-type]

    first = threading.Thread(target=run, args=(silent,))
    first.start()
    assert entered.wait(10)
    second = threading.Thread(target=run, args=(lambda _step: second_waits.set(),))
    second.start()
    first.join(10)
    second.join(10)
    assert len(builds) == 1
    assert has_file(tmp_path / "a-1")


def test_a_lock_that_is_held_too_long_is_an_error(tmp_path: Path) -> None:
    told: list[int] = []
    lock = tmp_path / "lock"
    with (
        file_lock(lock, wait_seconds=1, waiting=lambda: None),
        pytest.raises(StackBusy, match="lock"),
        file_lock(lock, wait_seconds=0.2, waiting=lambda: told.append(1)),
    ):
        pytest.fail("two held it at once")
    assert told == [1]
    with file_lock(lock, wait_seconds=0, waiting=lambda: None):
        pass


def test_a_failing_step_shows_the_end_of_its_output(tmp_path: Path) -> None:
    script = "for i in $(seq 40); do echo line $i; done; echo broken >&2; exit 3"
    with pytest.raises(BuildFailed) as caught:
        run_build("the step", ["sh", "-c", script], cwd=tmp_path)
    text = str(caught.value)
    assert "the step failed with exit status 3" in text
    assert "line 40" in text
    assert "broken" in text
    assert "line 2\n" not in text


def test_a_step_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("agents.platform.stack.cache._BUILD_SECONDS", 0.2)
    with pytest.raises(BuildFailed, match="did not finish"):
        run_build("the step", ["sleep", "60"], cwd=tmp_path)


def test_jars_other_than_the_recipes_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "good.jar").write_bytes(b"good")
    sums = {"good.jar": hashlib.sha256(b"good").hexdigest()}
    monkeypatch.setattr(kafka, "_jar_sums", lambda: sums)
    kafka._check_jars(tmp_path)
    (tmp_path / "good.jar").write_bytes(b"altered")
    (tmp_path / "extra.jar").write_bytes(b"")
    with pytest.raises(BuildFailed, match=r"extra\.jar, good\.jar"):
        kafka._check_jars(tmp_path)


def test_the_recipes_name_the_versions_that_are_shown() -> None:
    assert f"kafka_2.13-{kafka.VERSION}.jar" in kafka._jar_sums()
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in kafka._jar_sums().values())
    assert f"<version>{kafka.VERSION}</version>" in (RECIPES / "kafka" / "pom.xml").read_text()
    module = (RECIPES / "ferretdb" / "go.mod").read_text()
    assert f"github.com/FerretDB/FerretDB v{ferretdb.VERSION}\n" in module
    assert "\ngo {}.{}\n".format(*ferretdb._GO_NEEDED) in module


def test_a_patch_that_does_not_fit_fails_the_build_even_inside_of_a_repository(
    tmp_path: Path,
) -> None:
    patch = tmp_path / "small.patch"
    patch.write_text("--- a/file\n+++ b/file\n@@ -1 +1 @@\n-old\n+new\n")
    run_build("git", ["git", "init", "-q", str(tmp_path)], cwd=tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("old\n")
    ferretdb._apply(patch, source)
    assert (source / "file").read_text() == "new\n"
    with pytest.raises(BuildFailed, match=r"small\.patch to FerretDB failed"):
        ferretdb._apply(patch, source)


@pytest.mark.parametrize(
    ("printed", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21" 2023-09-19', 21),
        ("no java at all", None),
    ],
)
def test_the_release_of_java_is_read(printed: str, major: int | None) -> None:
    assert kafka.java_version(printed) == major


def put_program(folder: Path, name: str, script: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_an_old_java_is_refused_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_program(tmp_path, "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    kafka._java.cache_clear()
    try:
        with pytest.raises(MissingTool, match=r"Java 11, Kafka needs 17.*openjdk-17"):
            kafka._java()
    finally:
        kafka._java.cache_clear()


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("go version go1.19.8 linux/amd64", (1, 19)),
        ("go version go1.26 linux/arm64", (1, 26)),
        ("something else", (0, 0)),
    ],
)
def test_the_version_of_go_is_read(printed: str, version: tuple[int, int]) -> None:
    assert ferretdb.go_version(printed) == version


def fake_go(folder: Path, version: str, root: Path) -> None:
    put_program(
        folder,
        "go",
        f'[ "$1" = version ] && echo "go version go{version} linux/amd64" && exit 0\n'
        f'echo "$@" > {folder}/asked; echo \'{{"Dir": "{root}"}}\'',
    )


def find_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str) -> tuple[str, dict]:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "pkg" / "tool" / "linux_amd64").mkdir(parents=True)
    (root / "bin" / "go").touch(0o444)
    (root / "pkg" / "tool" / "linux_amd64" / "compile").touch(0o444)
    (tmp_path / "build" / "source").mkdir(parents=True)
    fake_go(tmp_path, version, root)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("GOTOOLCHAIN", raising=False)
    return ferretdb._find_go(tmp_path / "build" / "source", silent)


def test_a_new_go_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_go(monkeypatch, tmp_path, "1.24.0") == (str(tmp_path / "go"), {})


def test_a_go_that_can_fetch_a_newer_one_is_told_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = find_go(monkeypatch, tmp_path, "1.22.2")
    assert found == (str(tmp_path / "go"), {"GOTOOLCHAIN": "auto"})


def test_an_old_go_downloads_a_newer_one_and_makes_it_runnable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go, env = find_go(monkeypatch, tmp_path, "1.19.8")
    assert go == str(tmp_path / "root" / "bin" / "go")
    assert env == {"GOTOOLCHAIN": "local", "GOROOT": str(tmp_path / "root")}
    asked = (tmp_path / "asked").read_text()
    assert f"golang.org/toolchain@v0.0.1-go{ferretdb._GO}.linux-amd64" in asked
    assert os.access(go, os.X_OK)
    assert os.access(tmp_path / "root" / "pkg" / "tool" / "linux_amd64" / "compile", os.X_OK)


def metadata_answer(*brokers: tuple[str, int]) -> bytes:
    answer = struct.pack(">ii", 1, len(brokers))
    for host, port in brokers:
        answer += struct.pack(">ih", 1, len(host)) + host.encode()
        answer += struct.pack(">ih", port, -1)
    return answer + struct.pack(">ii", 1, 0)


def test_brokers_of_a_metadata_answer_are_read() -> None:
    brokers = [("127.0.0.1", 9092), ("host.example", 1)]
    assert kafka.read_brokers(metadata_answer(*brokers)) == brokers
    assert kafka.read_brokers(metadata_answer()) == []


@given(st.binary(max_size=80))
def test_any_bytes_are_brokers_or_no_answer(answer: bytes) -> None:
    try:
        found = kafka.read_brokers(answer)
    except NotReady:
        return
    assert all(isinstance(port, int) for _host, port in found)


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    ids = {kafka._new_cluster_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(re.fullmatch(r"L[\w-]{21}", each) for each in ids)
