"""Programs of the system and ports."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from agents.platform import ports, tools

PACKAGES_MK = Path(__file__).parents[2] / "packages.mk"


def put_program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_a_missing_program_is_one_line_that_names_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tools.MissingTool) as caught:
        tools.require_tool("Xvfb")
    text = str(caught.value)
    assert "Xvfb is not installed" in text
    assert "apt-get install xvfb" in text
    assert "\n" not in text
    assert caught.value.exit_status == 69


def test_an_installed_program_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = put_program(tmp_path, "mvn")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.require_tool("mvn") == program


def test_java_home_goes_before_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_program(tmp_path / "path", "java")
    chosen = put_program(tmp_path / "jdk" / "bin", "java")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert tools.require_tool("java") == chosen
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert tools.require_tool("java") == tmp_path / "path" / "java"


def test_the_make_target_installs_the_packages_that_the_errors_name() -> None:
    pairs = re.findall(r"^\t([\w-]+):([\w.-]+)", PACKAGES_MK.read_text(), re.MULTILINE)
    assert dict(pairs) == tools.PACKAGES


def test_a_free_port_is_free_and_given_out_once() -> None:
    given = [ports.free_port() for _ in range(50)]
    assert len(set(given)) == 50
    assert all(ports.is_free(port) for port in given)


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port, host="127.0.0.1": False)
    with pytest.raises(OSError, match="no free port"):
        ports.free_port()
