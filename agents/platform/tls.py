"""How Kafka, the catalog and Redis are connected to: TLS, client certificates, SASL. All of it.

    AIOKafkaConsumer(**kafka_options(settings), group_id=…)      every aiokafka client, and Faust's
    AsyncIOMotorClient(url, **mongo_options(settings))
    ConnectionPool.from_url(url, **redis_options(settings))
    uvicorn.Config(app, **server_tls(cert, key))                 our own server

Kafka uses what LUCID_KAFKA_SECURITY says; the catalog and Redis use TLS when their URL does
(`tls=true`, `mongodb+srv://`, `rediss://`). Certificates are always checked, with the host
name, from TLS 1.2 on; a URL that turns a check off is refused.

SettingsError
└── TlsSettingsError      a file that is missing, no PEM, open to others, or does not fit
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from agents.platform.aiokafka_changes import change_aiokafka
from agents.platform.keys import KeyProblem, read_key_file
from agents.platform.settings import Settings, SettingsError

LEAST = ssl.TLSVersion.TLSv1_2
_TRUE = {"true", "1", "yes"}


class TlsSettingsError(SettingsError):
    """TLS or SASL cannot be used as it is set."""


# Contexts ---------------------------------------------------------------------------------------


def client_context(settings: Settings) -> ssl.SSLContext:
    """What connections to servers are made with; raises TlsSettingsError."""
    ca = settings.tls_ca
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ValueError) as error:
        raise _unusable("LUCID_TLS_CA", ca, error, "a PEM file of certificates") from error
    context.minimum_version = LEAST
    if settings.tls_cert is not None:
        _load_pair(context, settings.tls_cert, settings.tls_key, "LUCID_TLS")
    elif settings.tls_key is not None:
        raise TlsSettingsError("LUCID_TLS_KEY is set without LUCID_TLS_CERT")
    return context


def server_context(cert: Path, key: Path | None, prefix: str = "LUCID_API_TLS") -> ssl.SSLContext:
    """What a server of ours listens with; raises TlsSettingsError, which names PREFIX_CERT."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = LEAST
    _load_pair(context, cert, key, prefix)
    return context


def server_tls(
    cert: Path | None, key: Path | None, prefix: str = "LUCID_API_TLS"
) -> dict[str, Any]:
    """Arguments of uvicorn.Config, none without a certificate; raises TlsSettingsError."""
    if cert is None:
        if key is not None:
            raise TlsSettingsError(f"{prefix}_KEY is set without {prefix}_CERT")
        return {}
    context = server_context(cert, key, prefix)
    return {"ssl_certfile": str(cert), "ssl_context_factory": lambda _config, _default: context}


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path | None, prefix: str) -> None:
    private = key or cert
    _check_private(private, f"{prefix}_KEY" if key else f"{prefix}_CERT")

    def no_password() -> str:
        raise ValueError("the key needs a password")

    try:
        context.load_cert_chain(cert, key, password=no_password)
    except (OSError, ValueError) as error:
        what = "a PEM file of a certificate" + (" with its key" if key is None else "")
        raise _unusable(f"{prefix}_CERT", cert, error, what) from error


def _check_private(path: Path, name: str) -> str:
    """The text of a private file; raises TlsSettingsError."""
    try:
        return read_key_file(path, private=True)
    except KeyProblem as error:
        hint = error.hint if error.hint.startswith("chmod") else "Look at the path and its mode"
        raise TlsSettingsError(f"{name}: {error.what}", hint=hint) from error


def _unusable(name: str, path: Path | None, error: Exception, wanted: str) -> TlsSettingsError:
    if isinstance(error, FileNotFoundError):
        return TlsSettingsError(f"{name} names {path}, which does not exist")
    reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        reason = "the key is not that of the certificate"
    return TlsSettingsError(f"{name}: {path} cannot be used ({reason})", hint=f"Name {wanted}")


# Kafka ------------------------------------------------------------------------------------------


def kafka_options(settings: Settings) -> dict[str, Any]:
    """What every client of aiokafka is made with: where, and how; raises SettingsError.

    Whoever has them uses aiokafka as it is changed (agents/platform/aiokafka_changes).
    """
    change_aiokafka()
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_servers(),
        "security_protocol": settings.kafka_security,
    }
    if settings.kafka_security.endswith("SSL"):
        options["ssl_context"] = client_context(settings)
    if settings.kafka_security.startswith("SASL"):
        user, password = _sasl_user(settings)
        options |= {
            "sasl_mechanism": settings.kafka_sasl,
            "sasl_plain_username": user,
            "sasl_plain_password": password,
        }
    return options


def _sasl_user(settings: Settings) -> tuple[str, str]:
    if settings.kafka_security == "SASL_PLAINTEXT" and settings.kafka_sasl == "PLAIN":
        raise TlsSettingsError(
            "LUCID_KAFKA_SASL=PLAIN would send the password in the clear",
            hint="Set LUCID_KAFKA_SECURITY to SASL_SSL, or use SCRAM-SHA-512",
        )
    if settings.kafka_user is None or settings.kafka_password_file is None:
        raise TlsSettingsError(
            f"LUCID_KAFKA_SECURITY is {settings.kafka_security}, which needs a user",
            hint="Set LUCID_KAFKA_USER and LUCID_KAFKA_PASSWORD_FILE",
        )
    text = _check_private(settings.kafka_password_file, "LUCID_KAFKA_PASSWORD_FILE")
    password = text.rstrip("\r\n")
    if not password or "\n" in password:
        raise TlsSettingsError(
            f"LUCID_KAFKA_PASSWORD_FILE: {settings.kafka_password_file} is not one line"
        )
    return settings.kafka_user, password


# The catalog and Redis --------------------------------------------------------------------------


def _query(url: str) -> Mapping[str, str]:
    """The options of a URL, names in lower case; none for what is no URL."""
    try:
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return {}
    return {name.lower(): value.lower() for name, value in pairs}


def _refuse(name: str, option: str) -> TlsSettingsError:
    return TlsSettingsError(
        f"{name} has the option {option}",
        hint="Certificates are always checked: set LUCID_TLS_CA, LUCID_TLS_CERT, LUCID_TLS_KEY",
    )


def mongo_options(settings: Settings) -> dict[str, Any]:
    """Arguments of a MongoDB client beyond its URL; raises SettingsError."""
    url = settings.mongo_url()
    asked = _query(url)
    for option in asked:
        if option.startswith(("tls", "ssl")) and option not in ("tls", "ssl"):
            raise _refuse("LUCID_MONGO", option)
    explicit = asked.get("tls", asked.get("ssl"))
    if explicit not in _TRUE and not (explicit is None and url.startswith("mongodb+srv://")):
        return {}
    client_context(settings)  # refuses wrong files by name
    if settings.tls_key is not None:
        raise TlsSettingsError(
            "the catalog's driver takes a certificate and its key from one file",
            hint="Put the key into the file of LUCID_TLS_CERT, and leave LUCID_TLS_KEY unset",
        )
    files = {"tlsCAFile": settings.tls_ca, "tlsCertificateKeyFile": settings.tls_cert}
    return {name: str(path) for name, path in files.items() if path is not None}


def redis_options(settings: Settings) -> dict[str, Any]:
    """Arguments of a Redis connection pool beyond its URL; raises SettingsError."""
    url = settings.redis_url()
    for option in _query(url):
        if option.startswith("ssl"):
            raise _refuse("LUCID_REDIS", option)
    if not url.startswith("rediss://"):
        return {}
    client_context(settings)  # refuses wrong files by name
    files = {
        "ssl_ca_certs": settings.tls_ca,
        "ssl_certfile": settings.tls_cert,
        "ssl_keyfile": (settings.tls_key or settings.tls_cert),
    }
    given = {name: str(path) for name, path in files.items() if path is not None}
    return {
        **given, "ssl_min_version": LEAST, "ssl_cert_reqs": "required", "ssl_check_hostname": True,
    }  # fmt: skip


# What went wrong --------------------------------------------------------------------------------


def handshake_advice(said: str, setting: str) -> tuple[str, str] | None:
    """What a driver's text says of a handshake that failed, and what to do; None: nothing.

    setting: the variable that names the server.
    """
    for sign, what, advice in _SIGNS:
        if sign in said:
            return what, advice.replace("SETTING", setting)
    return None


_OURS = "Set LUCID_TLS_CERT and LUCID_TLS_KEY to a certificate of an authority that it trusts"
_SIGNS = (
    ("ostname mismatch", "its certificate is for another host name",
     "SETTING has to name the server as its certificate does"),
    ("IP address mismatch", "its certificate is not for this IP address",
     "SETTING has to name the server as its certificate does"),
    ("certificate has expired", "its certificate has expired", "Renew the server's certificate"),
    ("certificate verify failed", "its certificate is not trusted",
     "LUCID_TLS_CA has to name the file of the authority that issued it"),
    ("wrong version number", "it does not speak TLS there", "Is that port one without TLS?"),
    ("certificate required", "it asks for a certificate of ours", _OURS),
    ("bad certificate", "it asks for a certificate of ours, or does not take it", _OURS),
    ("certificate unknown", "it does not trust our certificate", _OURS),
    ("unknown ca", "it does not trust our certificate", _OURS),
    ("[SSL", "TLS failed", "Compare the TLS settings of both sides"),
)  # fmt: skip
