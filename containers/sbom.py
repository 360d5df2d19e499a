"""A CycloneDX 1.5 document of what is in an image. Pure: the same content, the same bytes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

_SPACE = uuid.UUID("6f0d0e5c-5d0f-5b8e-9a37-2f6b8b6f9c11")


@dataclass(frozen=True)
class Component:
    """One package. kind: `deb` or `pypi`, as package URLs name it."""

    kind: str
    name: str
    version: str
    sha256: str = ""

    @property
    def purl(self) -> str:
        space = "deb/debian" if self.kind == "deb" else self.kind
        return f"pkg:{space}/{self.name}@{self.version.replace('+', '%2B').replace(':', '%3A')}"


def document(title: str, version: str, components: Sequence[Component]) -> str:
    """The document of image `title`, as JSON."""
    listed = [_component(one) for one in sorted(components, key=lambda one: one.purl)]
    serial = uuid.uuid5(_SPACE, json.dumps([title, version, listed], sort_keys=True))
    return json.dumps({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "serialNumber": f"urn:uuid:{serial}",
        "metadata": {"component": {
            "bom-ref": title, "type": "container", "name": title, "version": version,
        }},
        "components": listed,
    }, indent=1) + "\n"  # fmt: skip


def _component(one: Component) -> dict[str, object]:
    entry: dict[str, object] = {
        "bom-ref": one.purl, "type": "library", "name": one.name, "version": one.version,
        "purl": one.purl,
    }  # fmt: skip
    if one.sha256:
        entry["hashes"] = [{"alg": "SHA-256", "content": one.sha256}]
    return entry
