"""What an image has to hold, from the imports of its code."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from agents.deployment.services import SERVICES, present
from agents.platform import rdp_gate
from agents.run import ROOMS
from containers.context import ROOT, cli_image, common, image_of, needs
from containers.needs import closure, distributions, models, normal, read_lock

LOCK = (ROOT / "requirements.lock").read_text()
HERE = present([str(name) for name in ROOMS])


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_imports_are_followed_wherever_they_stand(tmp_path: Path) -> None:
    write(tmp_path, {
        "agents/__init__.py": "", "agents/room/__init__.py": "from . import extra\n",
        "agents/room/extra.py": "import yaml\n",
        "agents/room/agent.py": (
            "import os\nfrom typing import TYPE_CHECKING\nimport schemas.one as one\n"
            "if TYPE_CHECKING:\n    import never\n    from agents.other import gone\n"
            "def later():\n    from agents.room import lazy\n"
        ),
        "agents/room/lazy.py": "from .helper import work\n",
        "agents/room/helper.py": "import numpy.linalg\ndef work(): ...\n",
        "agents/other/gone.py": "", "schemas/__init__.py": "", "schemas/one.py": "",
    })  # fmt: skip
    found = closure(tmp_path, "agents.room.agent")
    assert found.modules == {
        "agents", "agents.room", "agents.room.agent", "agents.room.extra", "agents.room.lazy",
        "agents.room.helper", "schemas", "schemas.one",
    }  # fmt: skip
    assert found.others == {"yaml", "numpy"}
    assert Path("agents/other/gone.py") not in found.files(tmp_path)
    assert Path("agents/__init__.py") in found.files(tmp_path)


def test_a_distribution_brings_what_it_needs() -> None:
    lock = (
        "aiohttp==1.0 \\\n    --hash=sha256:00\n    # via\n    #   faust-streaming\n"
        "    #   lucid-recorder (pyproject.toml)\n"
        "yarl==2.0 \\\n    --hash=sha256:00\n    # via aiohttp\n"
        "idna==3.0 \\\n    --hash=sha256:00\n    # via yarl\nnumpy==4.0 \\\n"
        "    # via lucid-recorder (pyproject.toml)\n"
    )
    assert read_lock(lock) == {"aiohttp": "1.0", "yarl": "2.0", "idna": "3.0", "numpy": "4.0"}
    assert distributions(["aiohttp"], lock) == {"aiohttp", "yarl", "idna"}
    assert distributions(["unknown"], lock) == frozenset()


def test_models_are_those_that_the_contract_names() -> None:
    text = "topics:\n  a:\n    value: schemas.frames.FrameRecord\n  b:\n    value: schemas.x.Y\n"
    assert models(text) == ["schemas.frames", "schemas.x"]


@pytest.mark.parametrize("name", [one.name for one in HERE])
def test_the_table_says_what_the_code_reaches(name: str) -> None:
    """A service is on the network of the catalog or of Redis if, and only if, it uses it."""
    one = next(each for each in SERVICES if each.name == name)
    found = needs(image_of(one), LOCK).modules
    assert one.catalog == ("agents.platform.catalog" in found)
    assert one.redis == ("agents.platform.redis_client" in found)
    rooms = {".".join(module.split(".")[:3]) for module in found if module.startswith("agents.")}
    others = {each.room for each in SERVICES} - {one.room}
    assert not rooms & others


WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import agents.cli
"""


def test_the_command_starts_without_what_an_image_lacks() -> None:
    """Neither extras nor tools of the tests are in an image, nor in a plain installation."""
    locked = read_lock(LOCK)
    lacking = [
        name for name, holders in metadata.packages_distributions().items()
        if not any(normal(holder) in {*locked, "lucid-recorder"} for holder in holders)
    ]  # fmt: skip
    assert {"hdrh", "matplotlib", "pytest"} <= set(lacking)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(lacking)], cwd=ROOT,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_only_the_recorder_has_capture_libraries() -> None:
    for one in HERE:
        found = needs(image_of(one), LOCK).distributions
        assert ("xcffib" in found) == (one.name == "recorder")
        assert ("fastapi" in found) == (one.name == "api")
        assert not found & {"av", "pillow", "typer", "rich"}


def test_the_xrdp_image_has_the_gate_of_its_desktops() -> None:
    """No import leads to it: each server gets a copy, which the system's Python runs."""
    image = next(image_of(one) for one in HERE if one.name == "xrdp")
    gate = {Path("agents/platform/rdp_gate", name) for name in rdp_gate.SOURCES}
    assert gate <= set(needs(image, LOCK).files)


def test_the_shared_layer_is_what_all_have() -> None:
    images = [image_of(one) for one in HERE]
    shared = common(images, LOCK)
    assert {"aiokafka", "pydantic", "structlog", "zstandard"} <= shared
    assert all(shared <= needs(image, LOCK).distributions for image in images)
    assert "numpy" not in shared


def test_the_commands_have_everything() -> None:
    assert {"typer", "av", "numpy", "fastapi"} <= needs(cli_image(), LOCK).distributions


IMPORT = """
import importlib, sys
from importlib import metadata
module, have = sys.argv[1], set(sys.argv[2].split())
names = metadata.packages_distributions()

class Missing:
    def find_spec(self, name, path=None, target=None):
        among = {one.lower().replace("_", "-").replace(".", "-") for one in names.get(name, [])}
        if among and not among & have:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
importlib.import_module(module)
"""


@pytest.mark.parametrize("name", [one.name for one in HERE])
def test_a_service_starts_with_what_its_image_has(name: str) -> None:
    """What others' packages import when they are used is seen by nobody who reads our imports."""
    image = image_of(next(each for each in SERVICES if each.name == name))
    have = " ".join(sorted(needs(image, LOCK).distributions))
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, image.entry.partition(":")[0], have],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
