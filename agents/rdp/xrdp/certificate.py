"""A server's own certificate: made when there is none, or none that still serves.

A client that has seen it once can tell it again, so that it is kept as long as it is good.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from agents.rdp.xrdp.files import write_private

RENEW_BEFORE = timedelta(days=1)
BITS = 2048  # clients of RDP know RSA best; NIST SP 800-57 has 2048 bits until 2030


def trouble_with(certificate: Path, key: Path, now: datetime) -> str:
    """What is wrong with a certificate and its key on disk; empty if they serve."""
    try:
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except FileNotFoundError:
        return "there is none"
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        return f"it cannot be read ({type(error).__name__})"
    if _public(shown.public_key()) != _public(private.public_key()):
        return "it belongs to another key"
    if not shown.not_valid_before_utc <= now <= shown.not_valid_after_utc - RENEW_BEFORE:
        return f"it is valid until {shown.not_valid_after_utc:%Y-%m-%d} only"
    return ""


def make_certificate(certificate: Path, key: Path, name: str, days: int, now: datetime) -> None:
    """Write a new key and a certificate of it that it has signed itself."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of clients may be behind.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    text = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    write_private(key, text)
    write_private(certificate, signed.public_bytes(serialization.Encoding.PEM))


def ensure_certificate(certificate: Path, key: Path, name: str, days: int) -> str:
    """Make a new one if the old one does not serve; returns what was wrong with that."""
    now = datetime.now(UTC)
    trouble = trouble_with(certificate, key, now)
    if trouble:
        make_certificate(certificate, key, name, days, now)
    return trouble


def fingerprint(certificate: Path) -> bytes:
    """SHA-256 of the certificate in DER, as a TLS peer shows it."""
    shown = x509.load_pem_x509_certificate(certificate.read_bytes())
    return hashlib.sha256(shown.public_bytes(serialization.Encoding.DER)).digest()


def _public(key: object) -> bytes:
    found: bytes = key.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found
