"""The runtime base of all images: built here once, or a public one that a build argument names.

The local one is made from the packages of base/packages.txt: the same files as the public
distroless image, and as little. The same packages give the same image, id included.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from containers import docker
from containers.debian import EPOCH, Package, fetch, settle, tar, unpack
from containers.errors import BuildProblem, run

HERE = Path(__file__).parent / "base"
TAG = "lucid/python-distroless:bookworm"
CREATED = "2025-01-01T00:00:00Z"
_PYTHON = "usr/lib/python3.11"
_DROPPED = (
    "usr/sbin", "usr/bin/c_rehash", f"{_PYTHON}/idlelib", f"{_PYTHON}/lib2to3",
    f"{_PYTHON}/ensurepip", f"{_PYTHON}/pydoc_data", "usr/bin/pygettext3.11", "usr/bin/pdb3.11",
    "usr/bin/pydoc3.11", "usr/bin/getconf", "usr/bin/iconv", "usr/bin/ldd", "usr/bin/locale",
    "usr/bin/localedef", "usr/bin/tzselect", "usr/bin/zdump", "usr/bin/catchsegv",
    "usr/bin/pldd", "usr/bin/getent", "etc/update-motd.d", "etc/profile.d", "etc/init.d",
)  # fmt: skip
_PASSWD = """root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
"""
_GROUP = "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\nnonroot:x:65532:\n"


def names() -> list[str]:
    """The packages of the base."""
    lines = (HERE / "packages.txt").read_text().splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def ensure(*, fresh: bool = False) -> str:
    """The tag of the local base, built if it is not there; raises BuildProblem."""
    if fresh or not docker.has_image(TAG):
        with tempfile.TemporaryDirectory(prefix="lucid-base-") as folder:
            packages = fetch(names(), Path(folder, "debs"))
            root = Path(folder, "root")
            _fill(packages, root)
            _load(root, packages, Path(folder))
    return TAG


def _fill(packages: Sequence[Package], root: Path) -> None:
    unpack(packages, root)
    for name in _DROPPED:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for shell in ("bin/sh", "usr/bin/sh", "bin/bash", "bin/dash"):
        if (root / shell).exists():
            raise BuildProblem(f"the base would have a shell, {shell}")
    for name in ("python", "python3"):
        (root / "usr/bin" / name).unlink(missing_ok=True)
        (root / "usr/bin" / name).symlink_to("python3.11")
    _write_accounts(root)
    _collect_authorities(root)
    _compile(root)
    settle(root)


def _write_accounts(root: Path) -> None:
    etc = root / "etc"
    (etc / "passwd").write_text(_PASSWD)
    (etc / "group").write_text(_GROUP)
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    home = root / "home/nonroot"
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    shutil.chown(home, 65532, 65532)
    temporary = root / "tmp"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o1777)


def _collect_authorities(root: Path) -> None:
    files = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    place = root / "etc/ssl/certs"
    place.mkdir(parents=True, exist_ok=True)
    (place / "ca-certificates.crt").write_bytes(b"".join(one.read_bytes() for one in files))


def _compile(root: Path) -> None:
    """A read-only root keeps no .pyc, and without them a probe costs four times as much."""
    run(
        ["chroot", str(root), "/usr/bin/python3.11", "-m", "compileall", "-q",
         "--invalidation-mode", "unchecked-hash", f"/{_PYTHON}"],
        what="compiling the standard library", env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip


def _load(root: Path, packages: Sequence[Package], folder: Path) -> None:
    """Write a docker archive whose id is that of its content, and load it."""
    layer = folder / "layer.tar"
    digest = tar(root, layer)
    config = json.dumps({
        "architecture": docker.architecture(), "os": "linux", "created": CREATED,
        "config": {
            "User": "65532:65532", "WorkingDir": "/", "Entrypoint": ["/usr/bin/python3.11"],
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8",
                    "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            "Labels": {"lucid.packages": " ".join(f"{p.name}={p.version}" for p in packages)},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": CREATED, "created_by": "lucid containers"}],
    }, sort_keys=True).encode()  # fmt: skip
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [TAG], "Layers": ["layer.tar"]}]).encode()
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as out:
        for entry, data in ((name, config), ("manifest.json", manifest)):
            head = tarfile.TarInfo(entry)
            head.size, head.mtime = len(data), EPOCH
            out.addfile(head, BytesIO(data))
        out.add(layer, "layer.tar")
    run(["docker", "load", "-q", "-i", str(archive)], what="docker load")
