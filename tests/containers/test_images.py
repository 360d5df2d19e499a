"""What the images are made of, and how they refuse what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from containers import images, runtime, slim
from containers.docker import has_image as docker_has
from tests.containers.conftest import HERE, docker

MIB = 1024**2
_FILLED = ("COPY", "WORKDIR", "lucid containers")


def _layers(tag: str) -> list[str]:
    found: list[str] = json.loads(docker("image", "inspect", tag))[0]["RootFS"]["Layers"]
    return found


def test_two_builds_give_the_same_layers() -> None:
    first = images.build(["api", "recorder"], no_cache=True)
    again = images.build(["api", "recorder"], no_cache=True)
    assert [one.layers for one in first] == [one.layers for one in again]


def _sizes(tag: str) -> dict[str, int]:
    """Bytes of each layer."""
    form = "{{.Size}} {{.CreatedBy}}"
    rows = docker("history", "--no-trunc", "--human=false", "--format", form, tag).splitlines()
    # The layer of an imported base has no command.
    made = [row.split(" ", 1) for row in rows]
    filled = [size for size, command in made if not command or command.startswith(_FILLED)]
    sizes = [int(size) for size in filled]
    return dict(zip(_layers(tag), sizes[::-1], strict=True))


def test_all_services_together_are_small() -> None:
    """Bytes beyond the base; a layer that several have counts once."""
    bases = [runtime.TAG, *([slim.TAG] if docker_has(slim.TAG) else [])]
    base = {layer for tag in bases for layer in _layers(tag)}
    sizes: dict[str, int] = {}
    for image in images.services():
        sizes |= {one: size for one, size in _sizes(image.tag).items() if one not in base}
    print(f"{len(images.services())} images: {sum(sizes.values()) / MIB:.0f} MiB")
    assert sum(sizes.values()) < 400 * MIB


@pytest.mark.parametrize("name", [one.name for one in HERE])
def test_an_image_holds_its_bill_of_materials(name: str) -> None:
    image = next(one for one in images.services() if one.name == name)
    script = "print(open('/usr/share/lucid/sbom.cdx.json').read())"
    printed = docker("run", "--rm", "--entrypoint", "/usr/bin/python3.11", image.tag, "-c", script)
    document = json.loads(printed)
    names = {one["name"] for one in document["components"]}
    assert {"libc6", "aiokafka"} <= names
    assert ("fastapi" in names) == (name == "api")
    assert ("xcffib" in names) == (name == "recorder")


def _run(*options: str, name: str = "storage") -> tuple[str, str]:
    """What a container says last, and its exit status, when it is started with `options`."""
    image = next(one for one in images.services() if one.name == name)
    container = docker("create", "--network", "none", *options, image.tag).strip()
    try:
        docker("start", "-a", container, check=False, seconds=60)
        state = json.loads(docker("inspect", container))[0]["State"]
        return docker("logs", container), str(state["ExitCode"])
    finally:
        docker("rm", "-f", "-v", container)


def test_a_volume_that_is_read_only_is_named() -> None:
    said, status = _run("--read-only", "-e", "LUCID_KAFKA=x:1", "-e", "LUCID_MONGO=mongodb://x/")
    assert status == "73"
    assert "cannot write to /var/lib/lucid/run (Read-only file system)" in said


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    options = ("-e", "LUCID_KAFKA_SECURITY=SASL_SSL", "-e", "LUCID_KAFKA=x:1",
               "-e", "LUCID_KAFKA_USER=storage",
               "-e", "LUCID_KAFKA_PASSWORD_FILE=/run/lucid/kafka.password")  # fmt: skip
    said, status = _run(*options)
    assert status == "78"
    assert "LUCID_KAFKA_PASSWORD_FILE: there is no key file /run/lucid/kafka.password" in said


def test_a_missing_configuration_is_one_line() -> None:
    said, status = _run("-e", "LUCID_CONFIG=/run/lucid/lucid.toml")
    assert status == "78"
    assert said.splitlines()[-1].startswith("error: LUCID_CONFIG names /run/lucid/lucid.toml")


def test_a_wrong_broker_address_is_named() -> None:
    said, status = _run("-e", "LUCID_KAFKA=127.0.0.1:1", "-e", "LUCID_MONGO=mongodb://x/")
    assert status not in ("0", "70")
    assert "no Kafka broker answers at 127.0.0.1:1" in said
