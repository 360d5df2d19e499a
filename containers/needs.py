"""What a service's image has to hold: its modules and its distributions. Pure but for reading.

closure(root, "agents.session.api.agent")    modules of ours, and what they import of others'
distributions(names, lock)                   those of requirements.lock that belong to them

Imports inside functions count, those under `if TYPE_CHECKING` do not. The models that
topics.yaml names are loaded by name, so every image holds their modules.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

OURS = ("agents", "schemas")


@dataclass(frozen=True)
class Closure:
    """modules: ours, by dotted name. others: top-level names of other people's packages."""

    modules: frozenset[str]
    others: frozenset[str]

    def files(self, root: Path) -> list[Path]:
        """The source files, relative to `root`, packages' own files included."""
        found = set()
        for module in self.modules:
            path = _file(root, module)
            assert path is not None
            found.add(path.relative_to(root))
            found.update(
                parent / "__init__.py" for parent in path.relative_to(root).parents
                if parent != Path(".") and (root / parent / "__init__.py").exists()
            )  # fmt: skip
        return sorted(found)


def _file(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def closure(root: Path, *entries: str) -> Closure:
    """Everything that the modules `entries` reach by imports."""
    waiting, seen, others = list(entries), set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        path = _file(root, module)
        if module in seen or path is None:
            continue
        seen.add(module)
        for name in _imports(path, module):
            if name.split(".")[0] not in OURS:
                others.add(name.split(".")[0])
            else:
                parts = name.split(".")
                waiting += [".".join(parts[: end + 1]) for end in range(len(parts))]
    return Closure(frozenset(seen), frozenset(others - sys.stdlib_module_names - {"__future__"}))


def models(contract: str) -> list[str]:
    """The modules of the models that a topics.yaml names."""
    return sorted(set(re.findall(r"(?m)^    value: (schemas\.\w+)\.\w+$", contract)))


@cache
def _imports(path: Path, module: str) -> tuple[str, ...]:
    """Dotted names that a file imports; of `from a import b` both a and a.b."""
    return tuple(_read_imports(path, module))


def _read_imports(path: Path, module: str) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield from _walk(child)


# Distributions --------------------------------------------------------------------------------


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> dict[str, str]:
    """The versions of a lock file by distribution."""
    return {normal(n): v for n, v in re.findall(r"(?m)^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text)}


def _children(text: str) -> dict[str, set[str]]:
    """What each distribution brought along, from the `# via` notes of pip-compile."""
    children: dict[str, set[str]] = {}
    current, noting = "", False
    for line in text.splitlines():
        head = re.match(r"([A-Za-z0-9_.-]+)==", line)
        if head:
            current, noting = normal(head[1]), False
        elif line.startswith("    # via"):
            noting = True
            line = line.removeprefix("    # via")
            if line.strip():
                children.setdefault(normal(line.strip()), set()).add(current)
        elif noting and line.startswith("    #   "):
            children.setdefault(normal(line.strip("# ").split()[0]), set()).add(current)
    return children


@cache
def _holders() -> Mapping[str, list[str]]:
    """The installed distributions by the top-level names that they hold."""
    return metadata.packages_distributions()


def distributions(others: Iterable[str], lock: str) -> frozenset[str]:
    """The distributions of a lock that hold these top-level names, and what those need."""
    locked, children = read_lock(lock), _children(lock)
    holders = _holders()
    found: set[str] = set()
    waiting = [normal(one) for name in others for one in holders.get(name, [])]
    while waiting:
        name = waiting.pop()
        if name in found or name not in locked:
            continue
        found.add(name)
        waiting += sorted(children.get(name, ()))
    return frozenset(found)
