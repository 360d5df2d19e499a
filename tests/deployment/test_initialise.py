"""`lucid init`: secrets made once, each service its own, nothing open to others."""

from __future__ import annotations

import base64
import os
import ssl
import tomllib
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from agents.deployment import certificates, servers
from agents.deployment.initialise import InitRefused, initialise, users
from agents.deployment.services import SERVICES, Service
from agents.platform.settings import Settings
from agents.platform.token_keys import list_keys, rotate

ME = os.getuid()


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    initialise(Settings.load(home=tmp_path), tmp_path / "deploy", "1.2.3", ME)
    return tmp_path / "deploy"


def test_nothing_is_made_twice(deployed: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in deployed.rglob("*") if path.is_file()}
    again = initialise(Settings.load(home=tmp_path), deployed, "1.2.3", ME)
    assert again.made == ()
    assert {path: path.read_bytes() for path in deployed.rglob("*") if path.is_file()} == before


def test_two_deployments_share_no_secret(deployed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    initialise(Settings.load(home=tmp_path), other, "1.2.3", ME)
    for path in (deployed / "passwords").iterdir():
        assert len(path.read_text().strip()) == 48
        assert path.read_text() != (other / "passwords" / path.name).read_text()


def test_every_file_is_its_owners_only(deployed: Path) -> None:
    for path in deployed.rglob("*"):
        if path.name.endswith(".pub.jwk"):
            continue  # public, and made by `lucid token keys rotate` so
        mode = path.stat().st_mode & 0o777
        assert mode == 0o600 if path.is_file() else mode in (0o700, 0o711), path


@pytest.mark.parametrize("one", SERVICES, ids=lambda one: one.name)
def test_a_service_has_its_own_secrets_and_no_others(deployed: Path, one: Service) -> None:
    folder = deployed / "services" / one.name
    assert {path.name for path in (folder / "keys").iterdir()} == set(one.keys)
    config = tomllib.loads((folder / "lucid.toml").read_text())
    assert config["kafka_user"] == one.name
    assert config["kafka_security"] == "SASL_SSL"
    assert ("mongo" in config) == one.catalog
    assert ("redis" in config) == one.redis
    own = (deployed / "passwords" / one.name).read_text()
    assert (folder / "kafka.password").read_text() == own.strip()
    assert (folder / "kafka.user").read_text() == one.name
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    for name in {*users(), "admin"} - {one.name}:
        assert (deployed / "passwords" / name).read_text().strip() not in text


def test_kubernetes_is_given_the_same_files(deployed: Path) -> None:
    secret = yaml.safe_load((deployed / "kubernetes/storage.yaml").read_text())
    assert secret["metadata"] == {"name": "lucid-storage", "namespace": "lucid"}
    folder = deployed / "services/storage"
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert set(secret["data"]) == {"__".join(p.relative_to(folder).parts) for p in files}
    assert base64.b64decode(secret["data"]["ca.pem"]) == (folder / "ca.pem").read_bytes()


def test_the_api_can_verify_tokens_and_not_make_them(deployed: Path) -> None:
    tokens = deployed / "services/api/keys/tokens"
    assert tokens.is_dir()
    assert all(path.name.endswith(".pub.jwk") for path in tokens.iterdir())
    commands = deployed / "services/cli/keys/tokens"
    assert any(not path.name.endswith(".pub.jwk") for path in commands.iterdir())


def test_a_rotated_token_key_arrives(deployed: Path, tmp_path: Path) -> None:
    own = Settings.load(home=tmp_path, keys=deployed / "keys")
    key = rotate(own)
    initialise(Settings.load(home=tmp_path), deployed, "1.2.3", ME)
    assert (deployed / f"services/api/keys/tokens/{key.kid}.pub.jwk").exists()
    assert len(list_keys(own)) == 2


def test_the_brokers_certificate_is_for_its_name(deployed: Path) -> None:
    pem = (deployed / "kafka/secure/server.pem").read_bytes()
    cert = x509.load_pem_x509_certificate(pem)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lucid-kafka", "localhost"]
    context = ssl.create_default_context(cafile=str(deployed / "services/storage/ca.pem"))
    assert context.cert_store_stats()["x509_ca"] == 1
    ssl.create_default_context().load_cert_chain(deployed / "kafka/secure/server.pem")


def test_a_certificate_made_anew_is_of_the_same_authority(deployed: Path, tmp_path: Path) -> None:
    (deployed / "authority/kafka.pem").unlink()
    before = (deployed / "authority/ca.pem").read_bytes()
    done = initialise(Settings.load(home=tmp_path), deployed, "1.2.3", ME)
    assert "authority/kafka.pem" in done.made
    assert (deployed / "authority/ca.pem").read_bytes() == before


def test_addresses_and_names_are_told_apart() -> None:
    cert, key = certificates.new_authority("x")
    pem = certificates.issue(cert, key, ["kafka", "10.0.0.1"])
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InitRefused, match=r"cannot make the deployment in .*file"):
        initialise(Settings.load(home=tmp_path), tmp_path / "file" / "x", "1", ME)


def test_servers_ask_for_passwords_only_when_secure() -> None:
    assert "SASL" not in servers.kafka_plain()
    secure = servers.kafka_secure("s3cret")
    assert "allow.everyone.if.no.acl.found=false" in secure
    assert "CLIENTS:SASL_SSL" in secure
    assert 'user_admin="s3cret"' in secure
    assert "requirepass p" in servers.redis("p")
    assert "requirepass" not in servers.redis()
