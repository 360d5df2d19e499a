"""The health check of a container: GET /health/ready of the service in it. Standard library only.

    python -I -S probe.py [PORT [PATH]]     exit status 0 for an answer 200, else 1 and a line

The port is that of the file `port` beside it if none is given.
Run by the engine every 30 s, so it imports as little as it can (29 ms of CPU).
"""

import socket
import sys

SECONDS = 8.0  # the engine gives up after 10
LARGEST = 65536


def ask(port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET; raises OSError or ValueError."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as peer:
        peer.settimeout(SECONDS)
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        peer.sendall(request.encode())
        answer = b""
        while len(answer) < LARGEST and (part := peer.recv(8192)):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body.decode("utf-8", "replace")


def own_port() -> int:
    """The port of the image's service."""
    with open(__file__.removesuffix("probe.py") + "port") as file:
        return int(file.read())


def main(arguments: list[str]) -> int:
    port = int(arguments[0]) if arguments else own_port()
    path = arguments[1] if len(arguments) > 1 else "/health/ready"
    try:
        status, body = ask(port, path)
    except (OSError, ValueError, IndexError) as error:
        print(f"no answer on port {port}: {error or type(error).__name__}")
        return 1
    # The engine keeps what is printed: which check fails is what an operator looks for.
    print(body[:2000])
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
