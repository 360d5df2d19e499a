"""What is installed in an image: bytecode without docstrings of others, the same each time."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from containers.context import ROOT

MODULE = '''\
"""Of the module."""
from __future__ import annotations

class Bare:
    """All there is."""

def f(x):
    """Of the function."""
    assert x, "checked"
    return __doc__, f.__doc__, Bare.__doc__

async def g():
    """Only this."""
'''
TELL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
import one
print(one.f(1), one.f.__code__.co_filename)
try:
    one.f(0)
except AssertionError as error:
    print(error)
"""


def _app(place: Path) -> Path:
    """A folder with one module, and one file that is no Python 3, installed by install.py."""
    source = place / "source"
    source.mkdir(parents=True)
    (source / "one.py").write_text(MODULE)
    (source / "old.py").write_text("print 'two'\n")
    subprocess.run(
        [sys.executable, ROOT / "containers/install.py", "app", source, place / "out/code/app"],
        check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1735689600", "PYTHONHASHSEED": "0"},
    )  # fmt: skip
    return place / "out/code/app"


def _told(folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-B", "-c", TELL, folder], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_ours_keeps_its_docstrings_and_two_installations_are_equal(tmp_path: Path) -> None:
    first, again = _app(tmp_path / "a"), _app(tmp_path / "b")
    assert _told(first)[0].startswith("('Of the module.', 'Of the function.', 'All there is.')")
    assert _told(first)[1] == "checked"
    cached = Path(importlib.util.cache_from_source("one.py"))
    assert list(first.rglob("*.pyc")) == [first / cached]
    assert (first / cached).stat().st_mtime == 1735689600
    # Only the folder's depth may stand in the bytecode, which is that of the image.
    assert str(tmp_path).encode() not in (first / cached).read_bytes()
    assert (first / cached).read_bytes()[:16] == (again / cached).read_bytes()[:16]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1735689600")
    spec = importlib.util.spec_from_file_location("install", ROOT / "containers/install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_packages_of_others_lose_docstrings_and_keep_assertions(
    tmp_path: Path, install: object
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "one.py").write_text(MODULE)
    install.finish(site, docstrings=False)  # type: ignore[attr-defined]
    assert _told(site)[0].startswith("(None, None, None)")
    assert _told(site)[1] == "checked"
    shutil.rmtree(site / "__pycache__")
    assert _told(site)[0].startswith("('Of the module.'")
