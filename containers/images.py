"""Building all images, and what they are made of."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.deployment.services import SERVICES, present
from agents.run import ROOMS
from containers import docker, runtime, slim
from containers.context import ROOT, Image, cli_image, image_of, version, write
from containers.debian import EPOCH
from containers.errors import BuildProblem
from containers.sbom import Component
from containers.wheels import wheelhouse

OUT = ROOT / "build" / "containers"


@dataclass(frozen=True)
class Built:
    """One image as the engine has it. size: bytes, the base's included; layers: diff ids."""

    name: str
    tag: str
    size: int
    layers: tuple[str, ...]
    seconds: float


def rooms() -> list[str]:
    """The services that this version can run."""
    return [str(name) for name in ROOMS]


def wanted(names: Sequence[str]) -> list[Image]:
    """The images to build: those named, else all whose room is here, and the commands'."""
    images = [*services(), cli_image()]
    unknown = [name for name in names if name not in {one.name for one in images}]
    if unknown:
        raise BuildProblem(f"there is no image {unknown[0]}")
    return [one for one in images if not names or one.name in names]


def services() -> list[Image]:
    """The images of all services that this version can run."""
    return [image_of(one) for one in present(rooms())]


def absent() -> list[str]:
    """The services that this version has no room for."""
    return [one.name for one in SERVICES if one.name not in rooms()]


def base_components(tag: str) -> list[Component]:
    """The Debian packages of the local base, as its label lists them."""
    labels = docker.inspect(tag)["Config"].get("Labels") or {}
    pairs = (word.split("=", 1) for word in labels.get("lucid.packages", "").split())
    return [Component("deb", name, number) for name, number in pairs]


def build(
    names: Sequence[str] = (), *, base: str = "", builder: str = "", no_cache: bool = False,
    tell: Callable[[str], object] = lambda _: None,
) -> list[Built]:  # fmt: skip
    """Build the images; without `base` on the local base. Raises BuildProblem.

    tell: hears what is made now, which takes minutes where nothing is there yet.
    """
    images = wanted(names)
    python_base = base or runtime.ensure()
    wheels = wheelhouse(ROOT / "requirements.lock", ROOT / "requirements-dev.lock")
    context = OUT / "context"
    write(context, images, services(), wheels, base_components(python_base))
    shared = {
        "BUILDER_BASE": builder or python_base,
        "SOURCE_DATE_EPOCH": str(EPOCH), "VERSION": version(), "REVISION": _revision(),
        "CONTRACT": hashlib.sha256((ROOT / "topics.yaml").read_bytes()).hexdigest(),
    }  # fmt: skip
    found = []
    for image in images:
        begin = time.monotonic()
        if image.slim and not docker.has_image(slim.TAG):
            tell(f"Making {slim.TAG}, a Debian with xrdp")
        tell(f"Building {image.tag}")
        docker.build(
            context, image.tag,
            {**shared, "SERVICE": image.name, "ROOM": image.room, "PORT": str(image.port),
             "PYTHON_BASE": slim.ensure() if image.slim else python_base},
            no_cache=no_cache,
        )  # fmt: skip
        found.append(describe(image.name, image.tag, time.monotonic() - begin))
        _keep_bill(context, image)
    return found


def describe(name: str, tag: str, seconds: float = 0.0) -> Built:
    """An image as the engine has it."""
    seen = docker.inspect(tag)
    return Built(name, tag, seen["Size"], tuple(seen["RootFS"]["Layers"]), round(seconds, 1))


def _keep_bill(context: Path, image: Image) -> None:
    folder = OUT / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    source = context / "services" / image.name / "root/usr/share/lucid/sbom.cdx.json"
    (folder / f"{image.name}.cdx.json").write_bytes(source.read_bytes())


def _revision() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
