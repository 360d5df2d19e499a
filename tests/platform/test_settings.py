"""Settings: a wrong value is named with its variable, and nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.platform.settings import NoEndpoint, Settings, SettingsError
from agents.session.pipeline.settings import PipelineSettings
from agents.session.recorder.settings import RecorderSettings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lucid.toml").write_text('host = "file"\n[recorder]\nfps = 3\nport = 1\n')
    assert Settings.load().host == "file"
    monkeypatch.setenv("LUCID_HOST", "env")
    monkeypatch.setenv("LUCID_RECORDER_PORT", "2")
    assert Settings.load().host == "env"
    section = RecorderSettings.load()
    assert (section.fps, section.port) == (3, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LUCID_PIPELINE_PORT", "70000"),
        ("LUCID_PIPELINE_ABANDON_AFTER", "soon"),
        ("LUCID_PIPELINE_NO_SUCH", "1"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        PipelineSettings.load()
    assert caught.value.exit_status == 78


def test_an_unknown_variable_of_the_common_section_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LUCID_KAFAK", "localhost:9092")
    with pytest.raises(SettingsError, match="LUCID_KAFAK"):
        Settings.load()


@pytest.mark.parametrize("text", ["[nonsense]\na = 1", "this is not toml", 'no_such = "x"'])
def test_a_wrong_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "lucid.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"lucid\.toml|NO_SUCH"):
        Settings.load()


def test_a_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCID_CONFIG", "/nowhere/lucid.toml")
    with pytest.raises(SettingsError, match=r"/nowhere/lucid\.toml"):
        Settings.load()


def test_no_server_is_known_until_a_url_or_a_stack_says_where(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    for ask, name in ((settings.kafka_servers, "KAFKA"), (settings.mongo_url, "MONGO"),
                      (settings.redis_url, "REDIS")):  # fmt: skip
        with pytest.raises(NoEndpoint, match=f"LUCID_{name}"):
            ask()
    settings.stack_dir.mkdir()
    (settings.stack_dir / "endpoints.json").write_text('{"kafka": "127.0.0.1:1"}')
    assert settings.kafka_servers() == "127.0.0.1:1"


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path, mongo="mongodb://u:secret@host/")
    assert "secret" not in repr(settings)
    assert settings.mongo_url() == "mongodb://u:secret@host/"


def test_the_marks_of_free_space_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().resume_at == 625 * 1024**2
    assert Settings.load(min_free=0).resume_at == 1
    monkeypatch.setenv("LUCID_MIN_FREE", "1GiB")
    assert Settings.load().resume_at == 5 * 1024**3 // 4
    monkeypatch.setenv("LUCID_RESUME_FREE", "1GiB")
    with pytest.raises(SettingsError, match=r"LUCID_RESUME_FREE: .*above LUCID_MIN_FREE"):
        Settings.load()
    monkeypatch.setenv("LUCID_RESUME_FREE", "2GiB")
    assert Settings.load().resume_at == 2 * 1024**3


def test_a_service_goes_on_with_the_addresses_of_a_stack_that_is_stopped(tmp_path: Path) -> None:
    settings = Settings.load(home=tmp_path)
    settings.stack_dir.mkdir()
    file = settings.stack_dir / "endpoints.json"
    file.write_text('{"kafka": "127.0.0.1:1"}')
    assert settings.kafka_servers() == "127.0.0.1:1"
    file.unlink()
    assert settings.kafka_servers() == "127.0.0.1:1"
    file.write_text('{"kafka": "127.0.0.1:2"}')
    assert settings.kafka_servers() == "127.0.0.1:2"
    file.unlink()
    with pytest.raises(NoEndpoint):
        Settings.load(home=tmp_path).kafka_servers()
