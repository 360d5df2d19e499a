"""Certificates of a test's own: authorities, and what they issue, as PEM files."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)
HERE = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key in two files, and both in a third."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """A certificate authority; `cert` is what others trust it by."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = self._sign(
            _subject(name), self._key, [(x509.BasicConstraints(True, 0), True)]
        )
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey,
        extensions: list[tuple[x509.ExtensionType, bool]], days: int = 30,
    ) -> x509.Certificate:  # fmt: skip
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_subject(self._name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 40 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, hosts: tuple[str, ...] = HERE, days: int = 30) -> Pair:
        """A certificate for host names and addresses, good for servers and clients."""
        key = ec.generate_private_key(ec.SECP256R1())
        uses = x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        )
        names = x509.SubjectAlternativeName([_name(host) for host in hosts])
        cert = self._sign(_subject(name), key, [(uses, False), (names, False)], days)
        pair = Pair(*(self._folder / f"{name}{end}" for end in (".crt", ".key", ".both")))
        pem = cert.public_bytes(Encoding.PEM)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for path, data in ((pair.cert, pem), (pair.key, secret), (pair.both, secret + pem)):
            path.touch(0o600)
            path.write_bytes(data)
        return pair


class Pki:
    """Two authorities, of which the servers are of the first, and what they issued."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.right, self.wrong = Authority(folder, "right"), Authority(folder, "wrong")
        self.here = self.right.issue("here")
        self.elsewhere = self.right.issue("elsewhere", ("elsewhere.example",))
        self.client = self.right.issue("client")
        self.stranger = self.wrong.issue("stranger")

    def password(self, text: str) -> Path:
        """A private file that holds it."""
        path = self.folder / f"password-{uuid4().hex[:8]}"
        path.touch(0o600)
        path.write_text(text)
        return path


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
