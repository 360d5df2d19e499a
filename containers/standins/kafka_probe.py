"""Does a broker answer ApiVersions, which needs no login? Standard library only."""

import socket
import struct
import sys

REQUEST = struct.pack(">hhih", 18, 0, 1, 5) + b"probe"


def main(port: int) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            peer.settimeout(5)
            peer.sendall(struct.pack(">i", len(REQUEST)) + REQUEST)
            answer = peer.recv(10)
            size, correlation, error = struct.unpack(">iih", answer)
    except (OSError, struct.error) as found:
        print(f"no broker answers on port {port}: {found}")
        return 1
    print(f"answered {size} bytes, error {error}")
    return 0 if correlation == 1 and error == 0 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
