"""Copies mounted secrets to where the service may own them: an init container of Kubernetes.

    python -I hand_over.py /secrets /run/lucid

Kubernetes mounts a secret as root's, and readable for the group; Lucid reads private files of
mode 0600 only. In the names, which may hold no slash, `__` stands for one. Standard library only.
"""

import os
import sys


def main(source: str, target: str) -> int:
    """Copy every entry; returns an exit status."""
    os.umask(0o077)
    try:
        for name in sorted(os.listdir(source)):
            if name.startswith(".."):
                continue  # the links by which Kubernetes swaps a secret for its successor
            path = os.path.join(target, *name.split("__"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(os.path.join(source, name), "rb") as found, open(path, "wb") as out:
                out.write(found.read())
    except OSError as error:
        print(f"error: cannot copy the secrets of {source}: {error}", file=sys.stderr)
        return 73
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
