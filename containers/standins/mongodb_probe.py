"""Does the catalog answer `hello`? One OP_MSG, no password needed. Standard library only."""

import socket
import struct
import sys


def request() -> bytes:
    """OP_MSG with {hello: 1, $db: "admin"}."""
    body = b"\x10hello\0" + struct.pack("<i", 1) + b"\x02$db\0" + struct.pack("<i", 6) + b"admin\0"
    document = struct.pack("<i", len(body) + 5) + body + b"\0"
    message = struct.pack("<i", 0) + b"\0" + document
    return struct.pack("<iiii", len(message) + 16, 1, 0, 2013) + message


def main() -> int:
    try:
        with socket.create_connection(("127.0.0.1", 27017), timeout=5) as peer:
            peer.settimeout(5)
            peer.sendall(request())
            answer = peer.recv(4096)
    except OSError as found:
        print(f"the catalog does not answer: {found}")
        return 1
    print(f"answered {len(answer)} bytes")
    return 0 if b"maxWireVersion" in answer else 1


if __name__ == "__main__":
    sys.exit(main())
