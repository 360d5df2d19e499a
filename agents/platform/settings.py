"""Settings from the environment and from one TOML file.

Every setting of a section is a variable `LUCID_<SECTION>_<NAME>` (the common section has
no name of its own: `LUCID_<NAME>`) and a key of table `[<section>]` in the file that
LUCID_CONFIG names, `lucid.toml` in the working folder by default. The environment wins.

SettingsError
└── NoEndpoint        no broker, catalog or Redis is configured and no stack is up
"""

from __future__ import annotations

import json
import os
import socket
import tomllib
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    ByteSize,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from schemas.errors import LucidError

CONFIG_VARIABLE = "LUCID_CONFIG"
SECTIONS = (
    "recorder", "processor", "storage", "pipeline", "api", "retention", "server_manager", "xrdp",
    "controller", "monitor", "node_management", "node_agent",
)  # fmt: skip


class SettingsError(LucidError):
    """A setting is unknown or has a wrong value."""

    exit_status = 78


class NoEndpoint(SettingsError):
    """A server is needed, and neither a URL nor a running stack says where it is."""


def config_file() -> Path:
    """The TOML file in force; it need not exist unless LUCID_CONFIG names it."""
    return Path(os.environ.get(CONFIG_VARIABLE, "lucid.toml"))


def _read_table(section: str) -> dict[str, Any]:
    path = config_file()
    if not path.exists():
        if CONFIG_VARIABLE in os.environ:
            raise SettingsError(
                f"{CONFIG_VARIABLE} names {path}, which does not exist",
                hint="Write the file or unset the variable",
            )
        return {}
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read settings from {path}: {error}") from error
    unknown = [k for k, v in tables.items() if isinstance(v, dict) and k not in SECTIONS]
    if unknown:
        raise SettingsError(
            f"{path} has a table [{unknown[0]}] that Lucid does not know",
            hint=f"Tables are {', '.join(SECTIONS)}; common settings stand outside of them",
        )
    if section:
        table = tables.get(section, {})
        return dict(table) if isinstance(table, dict) else {section: table}
    return {key: value for key, value in tables.items() if not isinstance(value, dict)}


class Section(BaseSettings):
    """One table of settings; subclasses set `section` and the environment prefix."""

    section: ClassVar[str] = ""
    model_config = SettingsConfigDict(env_prefix="LUCID_", extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = InitSettingsSource(settings_cls, init_kwargs=_read_table(cls.section))
        return init_settings, env_settings, file

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read this section; raises SettingsError that names the variable and the value."""
        cls._refuse_unknown_variables()
        try:
            return cls(**overrides)
        except UnreadableVariable as error:
            names = [name for name in cls.model_fields if f'"{name}"' in str(error)]
            variable = f"{cls.model_config['env_prefix']}{''.join(names[:1]).upper()}"
            raise SettingsError(f"{variable} is not JSON", hint="See docs/settings.md") from error
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            shown = "" if first["type"] == "missing" else f" (got {first['input']!r})"
            prefix = str(cls.model_config["env_prefix"])
            raise SettingsError(
                f"{prefix}{name.upper()}: {first['msg']}{shown}",
                hint=f"Set the variable, or `{name}` in {config_file()}",
            ) from error

    @classmethod
    def _refuse_unknown_variables(cls) -> None:
        prefix = str(cls.model_config["env_prefix"])
        known = {prefix + field.upper() for field in cls.model_fields}
        known.add(CONFIG_VARIABLE)
        for name in os.environ:
            if not name.startswith(prefix) or name in known:
                continue
            others = tuple(f"LUCID_{section.upper()}_" for section in (*SECTIONS, "test"))
            if not cls.section and name.startswith(others):
                continue
            raise SettingsError(
                f"{name} is not a setting of Lucid", hint="See docs/settings.md for all names"
            )


class Settings(Section):
    """What every service and command shares."""

    _seen: dict[str, str] = PrivateAttr(default_factory=dict)
    home: Path = Field(Path(".lucid"), description="Folder of keys, blobs, scratch and stack")
    kafka: str | None = Field(None, description="Bootstrap servers, host:port[,host:port]")
    mongo: SecretStr | None = Field(None, description="MongoDB URL of the catalog")
    redis: SecretStr | None = Field(None, description="Redis URL")
    database: str = Field("lucid", description="Database of the catalog", min_length=1)
    topics_file: Path | None = Field(None, description="Another contract than the built-in one")
    topic_prefix: str = Field(
        "", description="Prefix of all topics and groups on a shared broker",
        pattern=r"^[a-zA-Z0-9._-]{0,64}$",
    )  # fmt: skip
    keys: Path | None = Field(None, description="Folder of keys; HOME/keys if not set")
    blobs: Path | None = Field(None, description="Folder of sealed chunks; HOME/blobs if not set")
    scratch: Path | None = Field(None, description="Folder of short-lived files; HOME/scratch")
    cache: Path | None = Field(
        None, description="Folder of downloads and builds; the user's cache folder if not set"
    )
    bind: str = Field("127.0.0.1", description="Address that health and metrics listen on")
    host: str = Field(default_factory=socket.gethostname, description="This host's name")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tls_ca: Path | None = Field(
        None,
        description="PEM file of the servers' authorities; the system's if not set",
    )
    tls_cert: Path | None = Field(None, description="PEM file of the certificate shown to servers")
    tls_key: Path | None = Field(
        None, description="Its private key, mode 0600; in LUCID_TLS_CERT if not set"
    )
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="security.protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    )
    kafka_sasl: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = Field(
        "SCRAM-SHA-512", description="sasl.mechanism: SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN"
    )
    kafka_user: str | None = Field(None, min_length=1, description="User for SASL")
    kafka_password_file: Path | None = Field(
        None, description="File of the user's password, one line, mode 0600"
    )
    token_issuer: str = Field(
        "lucid", min_length=1, max_length=200, description="Who issues access tokens: their `iss`"
    )
    token_audience: str = Field(
        "lucid-api", min_length=1, max_length=200,
        description="Whom access tokens are for: their `aud`",
    )  # fmt: skip
    revocation_grace: float = Field(
        60.0, ge=0, le=1800,
        description="Seconds for which a copy of the revocation list is good without Redis",
    )  # fmt: skip
    dead_letter_limit: int = Field(
        100, ge=0, le=1_000_000,
        description="Refused records of a partition in an hour; one more stops the service",
    )  # fmt: skip
    min_free: ByteSize = Field(
        ByteSize(500 * 1024**2),
        description="Free bytes below which a service is not ready and takes nothing more",
    )
    resume_free: ByteSize | None = Field(
        None,
        description="Free bytes from which it goes on; a quarter above LUCID_MIN_FREE if not set",
    )

    rdp_require_recording: bool = Field(
        True, description="Whether a desktop that cannot be recorded is refused or ended"
    )
    rdp_socket: Path | None = Field(
        None, description="Socket where sessions ask the RDP controller; HOME/rdp/controller.sock"
    )

    @field_validator("resume_free")
    @classmethod
    def _resume_above_stop(cls, value: ByteSize | None, info: ValidationInfo) -> ByteSize | None:
        least = info.data.get("min_free")
        if value is not None and least is not None and value <= least:
            raise ValueError(f"must be above LUCID_MIN_FREE, which is {int(least)}")
        return value

    @property
    def resume_at(self) -> int:
        """Free bytes from which a service that was held up goes on."""
        return int(self.resume_free or max(int(self.min_free) * 5 // 4, int(self.min_free) + 1))

    @property
    def keys_dir(self) -> Path:
        return self.keys or self.home / "keys"

    @property
    def blobs_dir(self) -> Path:
        return self.blobs or self.home / "blobs"

    @property
    def scratch_dir(self) -> Path:
        return self.scratch or self.home / "scratch"

    @property
    def stack_dir(self) -> Path:
        return self.home / "stack"

    @property
    def rdp_socket_path(self) -> Path:
        return self.rdp_socket or self.home / "rdp" / "controller.sock"

    def kafka_servers(self) -> str:
        """Bootstrap servers: the user's own, else those of the running stack."""
        return self.kafka or self._from_stack("kafka")

    def mongo_url(self) -> str:
        return self.mongo.get_secret_value() if self.mongo else self._from_stack("mongo")

    def redis_url(self) -> str:
        return self.redis.get_secret_value() if self.redis else self._from_stack("redis")

    def _from_stack(self, server: str) -> str:
        try:
            endpoints = json.loads((self.stack_dir / "endpoints.json").read_text())
            self._seen[server] = str(endpoints[server])
        except (OSError, ValueError, KeyError) as error:
            if server in self._seen:
                # For a running service a stack that is stopped is one that will be back.
                return self._seen[server]
            raise NoEndpoint(
                f"no {server} server is known",
                hint=f"Set LUCID_{server.upper()} to yours, or start one with `lucid stack up`",
            ) from error
        return self._seen[server]
