"""Run in the builder stage: installs wheels and code so that the same input gives the same bytes.

    python install.py site LOCK WHEELS OUT     wheels of a lock with hashes, without a network
    python install.py app SOURCE OUT           our own code, or files of the system
    python install.py state OUT                the folders that become volumes

Every .py gets its .pyc, checked by nothing (a read-only root could not renew it), every
time is SOURCE_DATE_EPOCH. The bytecode of others' packages has no docstrings, and none has
columns (PYTHONNODEBUGRANGES): that is 2 to 6 MiB of memory in each service. Assertions stay.
"""

import ast
import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
from pathlib import Path

EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
USELESS = ("tests", "test", "testing_data", "_pyinstaller")
ENDINGS = {".pyi", ".c", ".h", ".pxd", ".pyx", ".a", ".cpp"}


def site(lock: str, wheels: str, out: str) -> None:
    """Install what `lock` names from the folder `wheels` into `out`."""
    Path(out).mkdir(parents=True)
    pip = next(Path(wheels).glob("pip-*.whl"))
    if Path(lock).read_text().strip():
        subprocess.run(
            [sys.executable, f"{pip}/pip", "install", "-q", "--no-index", "--find-links", wheels,
             "--require-hashes", "--no-deps", "--no-compile", "--no-cache-dir",
             "--disable-pip-version-check", "--root-user-action", "ignore", "--target", out,
             "-r", lock],
            check=True,
        )  # fmt: skip
    shutil.rmtree(Path(out, "bin"), ignore_errors=True)
    for path in sorted(Path(out).rglob("*"), reverse=True):
        if path.is_dir() and path.name in USELESS and path.parent.name != "numpy":
            shutil.rmtree(path)
        elif path.is_file() and (path.suffix in ENDINGS or path.name in ("direct_url.json",)):
            path.unlink()


def app(source: str, out: str) -> None:
    """Copy a folder as it is."""
    shutil.copytree(source, out, symlinks=True)


def state(out: str) -> None:
    """Empty folders of the service's user: a new volume takes over owner and mode."""
    for name in ("lucid", "lucid-blobs", "kafka", "ferretdb", "redis"):
        folder = Path(out, name)
        folder.mkdir(parents=True)
        os.chown(folder, 65532, 65532)


def compile_all(top: Path, *, docstrings: bool) -> None:
    """Write the bytecode of every module below `top`; a file that is not Python 3 has none."""
    for path in sorted(top.rglob("*.py")):
        source = path.read_bytes()
        try:
            tree = ast.parse(source)
            if not docstrings:
                drop_docstrings(tree)
            name = f"{_place(top)}/{path.relative_to(top)}"
            code = compile(tree, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        target = Path(importlib.util.cache_from_source(str(path), optimization=""))
        target.parent.mkdir(exist_ok=True)
        # PEP 552: the magic number, flags (by hash, not checked), the hash, the code.
        header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")
        target.write_bytes(header + importlib.util.source_hash(source) + marshal.dumps(code))


def drop_docstrings(tree: ast.Module) -> None:
    """Take the docstrings out of a module, as `python -OO` does, and nothing else."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None:
            first = node.body.pop(0)
            if not node.body:
                node.body.append(ast.copy_location(ast.Pass(), first))


def finish(top: Path, *, docstrings: bool) -> None:
    """Compile, then give everything its mode and time."""
    compile_all(top, docstrings=docstrings)
    for path in [top, *sorted(top.rglob("*"))]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    for parent in top.parents:
        if parent != Path("/") and parent != Path("/out"):
            os.utime(parent, (EPOCH, EPOCH))


def _place(top: Path) -> str:
    """Where `top` will be in the image: /out/NAME/opt/site is /opt/site."""
    return "/" + "/".join(top.parts[3:])


def main(arguments: list[str]) -> None:
    kind, *rest = arguments
    {"site": site, "app": app, "state": state}[kind](*rest)
    # Ours are read at run time: what a route does, what a command's help says.
    finish(Path(rest[-1]), docstrings=kind != "site")


if __name__ == "__main__":
    os.umask(0o022)
    main(sys.argv[1:])
