"""Whether xrdp is alive: the protocol's first exchange, and its certificate.

A TCP connection says nothing, for the kernel accepts it while xrdp hangs. The exchange is the
X.224 connection request with an RDP negotiation request, and the confirm (MS-RDPBCGR 2.2.1.1
and 2.2.1.2), then a TLS handshake.

LucidError
└── NotAlive          no, another, or a wrong answer
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import struct

from schemas.errors import LucidError

PROTOCOL_SSL = 1
_RESPONSE, _FAILURE = 2, 3
_CONFIRM = 0xD0


class NotAlive(LucidError):
    """xrdp does not answer as it has to."""


def connection_request() -> bytes:
    """TPKT and X.224 connection request that asks for TLS."""
    negotiation = struct.pack("<BBHI", 1, 0, 8, PROTOCOL_SSL)
    x224 = struct.pack(">BBHHB", 6 + len(negotiation), 0xE0, 0, 0, 0) + negotiation
    return struct.pack(">BBH", 3, 0, 4 + len(x224)) + x224


def check_confirm(answer: bytes) -> None:
    """Raise NotAlive unless these 19 bytes are a confirm that takes TLS."""
    if len(answer) != 19:
        raise NotAlive(f"xrdp answered {len(answer)} bytes instead of a connection confirm")
    version, _, length = struct.unpack_from(">BBH", answer)
    if version != 3 or length != 19 or answer[5] & 0xF0 != _CONFIRM:
        raise NotAlive("what answers on xrdp's port does not speak RDP")
    kind, _, size, value = struct.unpack_from("<BBHI", answer, 11)
    if kind == _FAILURE:
        raise NotAlive(f"xrdp refuses TLS, failure code {value}")
    if kind != _RESPONSE or size != 8 or value != PROTOCOL_SSL:
        raise NotAlive(f"xrdp takes security protocol {value} instead of TLS")


async def look(host: str, port: int, certificate: bytes, seconds: float) -> None:
    """Speak the first exchange; raises NotAlive.

    certificate: SHA-256 of the one that xrdp has to show.
    """
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(connection_request())
                check_confirm(await reader.readexactly(19))
                await writer.start_tls(_any_peer(), server_hostname=None)
                _check_certificate(writer, certificate)
            finally:
                writer.close()
    except TimeoutError:
        raise NotAlive(f"xrdp did not answer within {seconds:g} s") from None
    except (OSError, EOFError, ssl.SSLError) as error:
        raise NotAlive(f"xrdp does not answer: {type(error).__name__}: {error}") from error


def _any_peer() -> ssl.SSLContext:
    """The certificate is compared with our own file, so that nobody has to vouch for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _check_certificate(writer: asyncio.StreamWriter, expected: bytes) -> None:
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    if shown is None or hashlib.sha256(shown).digest() != expected:
        raise NotAlive("another certificate is shown than this server's own")
