"""The build context: for each image its modules, its locks, and a bill of materials."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agents.deployment.services import Service
from agents.platform import rdp_gate
from containers import debian
from containers.needs import closure, distributions, models
from containers.sbom import Component, document
from containers.wheels import by_distribution, lock_of

ROOT = Path(__file__).parents[1]
CLI = "cli"
_FILES = ("install.py", "Dockerfile")


@dataclass(frozen=True)
class Image:
    """What one image is made of. entry: the function it starts; port: 0 for the commands."""

    name: str
    tag: str
    entry: str
    port: int
    room: str
    packages: tuple[str, ...] = ()
    slim: bool = False


def version() -> str:
    """The version in pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def image_of(service: Service) -> Image:
    """The image of a service."""
    return Image(
        service.name, f"{service.image}:{version()}", f"{service.room}.agent:main", service.port,
        service.room, service.packages, service.slim,
    )  # fmt: skip


def cli_image() -> Image:
    """The image of the `lucid` command, for what operators do."""
    return Image(CLI, f"lucid/{CLI}:{version()}", "agents.cli:main", 0, "agents.cli")


@dataclass(frozen=True)
class Needs:
    """files: ours, relative to the checkout. distributions: others', by name."""

    files: tuple[Path, ...]
    distributions: frozenset[str]
    modules: frozenset[str]


@cache
def needs(image: Image, lock: str, root: Path = ROOT) -> Needs:
    """What an image has to hold."""
    module = image.entry.partition(":")[0]
    entries = [module, *models((root / "topics.yaml").read_text())]
    if image.name == CLI:
        entries += [
            ".".join(path.relative_to(root).with_suffix("").parts)
            for path in (root / "agents").rglob("*.py")
            if path.name != "__init__.py"
        ]
    found = closure(root, *entries)
    if rdp_gate.__name__ in found.modules:
        # Copied and run by another Python, so that no import leads to them.
        gate = [f"{rdp_gate.__name__}.{Path(name).stem}" for name in rdp_gate.SOURCES]
        found = closure(root, *entries, *gate)
    return Needs(tuple(found.files(root)), distributions(found.others, lock), found.modules)


def common(services: Sequence[Image], lock: str, root: Path = ROOT) -> frozenset[str]:
    """The distributions that every service has: one layer, the same in all images."""
    return frozenset.intersection(*(needs(one, lock, root).distributions for one in services))


def write(
    folder: Path, images: Sequence[Image], services: Sequence[Image], wheels: Path,
    base: Sequence[Component], root: Path = ROOT,
) -> None:  # fmt: skip
    """Make the context for `images` in `folder`, which is emptied first.

    services: all there are, whichever are built: they decide what the shared layer holds.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lock = (root / "requirements.lock").read_text()
    by_name = by_distribution(wheels)
    wanted = {image.name: needs(image, lock, root) for image in images}
    shared = common(services, lock, root)
    for name in _FILES:
        shutil.copy(root / "containers" / name, folder / name)
    (folder / "wheels").mkdir()
    for wheel in by_name.values():
        shutil.copy(wheel, folder / "wheels")
    (folder / "common.lock").write_text(lock_of([by_name[name] for name in shared]))
    for image in images:
        _write_service(folder / "services" / image.name, image, wanted[image.name], by_name,
                       shared, base, root)  # fmt: skip
    debian.settle(folder)


def _write_service(
    folder: Path, image: Image, need: Needs, wheels: Mapping[str, Path],
    shared: frozenset[str], base: Sequence[Component], root: Path,
) -> None:  # fmt: skip
    app = folder / "app"
    for path in need.files:
        (app / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, app / path)
    shutil.copy(root / "topics.yaml", app / "schemas" / "topics.yaml")
    for name in ("probe.py", "launch.py", "hand_over.py"):
        shutil.copy(root / "containers" / name, app / name)
    (app / "entry").write_text(image.entry + "\n")
    (app / "port").write_text(f"{image.port}\n")
    notes = app / f"lucid_recorder-{version()}.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: lucid-recorder\nVersion: {version()}\n"
    )
    own = [wheels[name] for name in need.distributions - shared]
    (folder / "own.lock").write_text(lock_of(own))
    system = folder / "root"
    system.mkdir()
    components = [*base, *_pypi([*own, *(wheels[name] for name in shared)])]
    if image.packages:
        packages = debian.fetch(image.packages, folder / "debs")
        debian.unpack(packages, system)
        shutil.rmtree(folder / "debs")
        _link_libraries(system)
        components += [Component("deb", p.name, p.version, p.sha256) for p in packages]
    bill = system / "usr/share/lucid/sbom.cdx.json"
    bill.parent.mkdir(parents=True)
    bill.write_text(document(image.tag.split(":")[0], version(), components))


def _link_libraries(system: Path) -> None:
    """Without ldconfig, xcffib looks for the name of the development package's link."""
    for path in sorted((system / "usr/lib").rglob("lib*.so.*")):
        link = path.with_name(path.name.split(".so.")[0] + ".so")
        if not link.is_symlink():
            link.symlink_to(path.name)


def _pypi(wheels: Sequence[Path]) -> list[Component]:
    listed = []
    for line in lock_of(list(wheels)).splitlines():
        name, rest = line.split("==")
        number, digest = rest.split(" --hash=sha256:")
        listed.append(Component("pypi", name.replace("_", "-").lower(), number, digest))
    return listed
