"""Does Redis answer PING? An answer that asks for a password is one, too. Standard library only."""

import socket
import sys


def main() -> int:
    try:
        with socket.create_connection(("127.0.0.1", 6379), timeout=5) as peer:
            peer.settimeout(5)
            peer.sendall(b"*1\r\n$4\r\nPING\r\n")
            answer = peer.recv(64)
    except OSError as found:
        print(f"Redis does not answer: {found}")
        return 1
    print(answer.decode("ascii", "replace").strip())
    return 0 if answer.startswith((b"+PONG", b"-NOAUTH")) else 1


if __name__ == "__main__":
    sys.exit(main())
