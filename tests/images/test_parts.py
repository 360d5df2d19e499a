"""The bill of materials, the probe, the launcher, and installing so that bytes are the same."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from containers import launch, probe, runtime
from containers.debian import EPOCH
from containers.sbom import Component, document
from containers.wheels import _entry, lock_of


def test_a_bill_of_materials_is_the_same_for_the_same_content() -> None:
    parts = [Component("pypi", "aiokafka", "0.14.0", "ab"), Component("deb", "libc6", "2.36+deb")]
    text = document("lucid/api", "0.1.0", parts)
    assert text == document("lucid/api", "0.1.0", parts[::-1])
    assert text != document("lucid/api", "0.1.1", parts)
    found = json.loads(text)
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.5")
    urls = [one["purl"] for one in found["components"]]
    assert urls == ["pkg:deb/debian/libc6@2.36%2Bdeb", "pkg:pypi/aiokafka@0.14.0"]
    assert found["components"][1]["hashes"] == [{"alg": "SHA-256", "content": "ab"}]


class Answering(BaseHTTPRequestHandler):
    """Says that it is well, or whatever `status` says."""

    status = 200

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path}).encode()
        self.send_response(type(self).status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def answering() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "wanted"), [(200, 0), (503, 1), (404, 1)])
def test_the_probe_goes_by_the_status(
    answering: HTTPServer, status: int, wanted: int, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Answering, "status", status)
    assert probe.main([str(answering.server_port)]) == wanted
    assert "/health/ready" in capsys.readouterr().out
    assert probe.main([str(answering.server_port), "/health/live"]) == wanted
    assert "/health/live" in capsys.readouterr().out


def test_the_probe_of_a_closed_port_says_so(
    answering: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    port = answering.server_port
    answering.server_close()
    assert probe.main([str(port)]) == 1
    assert f"no answer on port {port}" in capsys.readouterr().out


def test_the_launcher_tells_a_refusal_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "refusing_room.py").write_text(
        "from agents.platform.settings import SettingsError\n"
        "def main():\n    raise SettingsError('LUCID_X is wrong', hint='Set it')\n"
        "def well():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert launch.main("refusing_room:main") == 78
    assert capsys.readouterr().err == "error: LUCID_X is wrong. Set it\n"
    assert launch.main("refusing_room:well") == 3


def test_installed_code_has_one_time_and_its_bytecode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    install = importlib.import_module("containers.install")
    source = tmp_path / "source"
    source.mkdir()
    (source / "one.py").write_text("x = 1\n")
    digests = []
    for name in ("first", "second"):
        out = tmp_path / name / "out" / "code" / "app"
        install.main(["app", str(source), str(out)])
        compiled = out / "__pycache__" / f"one.{sys.implementation.cache_tag}.pyc"
        digests.append(compiled.read_bytes()[:16])
        assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 1  # unchecked hash
        assert {path.stat().st_mtime for path in [out, *out.rglob("*")]} == {EPOCH}
        assert (out / "one.py").stat().st_mode & 0o777 == 0o644
    assert digests[0] == digests[1]
    os.umask(0o022)


def test_a_lock_names_exactly_the_wheels(tmp_path: Path) -> None:
    wheels = [tmp_path / "b-2.0-py3-none-any.whl", tmp_path / "a_x-1.0-py3-none-any.whl"]
    for path in wheels:
        path.write_bytes(path.name.encode())
    lines = lock_of(wheels).splitlines()
    assert [line.split(" --hash=sha256:")[0] for line in lines] == ["a_x==1.0", "b==2.0"]
    assert all(len(line.split("sha256:")[1]) == 64 for line in lines)


def test_one_entry_of_a_lock() -> None:
    lock = (
        "x==1 \\\n    --hash=sha256:aa\npip==26 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    )
    lock += "    # via pip-tools\nz==3 \\\n    --hash=sha256:dd\n"
    assert _entry(lock, "pip") == ("pip==26 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n")


def test_the_base_has_no_shell_and_no_package_manager() -> None:
    assert "python3.11-minimal" in runtime.names()
    assert not {"dash", "bash", "dpkg", "apt", "coreutils", "busybox"} & set(runtime.names())
