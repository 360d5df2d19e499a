"""Reading topics.yaml: what it may not say, and what is not loaded for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import ContractError
from schemas.topics import parse_contract

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "topics.yaml").read_text()
MODEL = "schemas.chunks.Chunk"
LOADED = """
import sys
from pathlib import Path
from schemas.topics import parse_contract
contract = parse_contract(Path("topics.yaml").read_text())
before = "schemas.events" in sys.modules
contract.load_models()
print(before, "schemas.events" in sys.modules)
"""


def test_models_are_loaded_when_they_are_asked_for() -> None:
    """A service reads the contract and has no use for the models of all topics."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("other", ["schemas.chunks.Nobody", "schemas.nobody.Chunk"])
def test_a_model_that_is_not_there_is_named(other: str) -> None:
    assert f"value: {MODEL}\n" in TEXT
    contract = parse_contract(TEXT.replace(f"value: {MODEL}\n", f"value: {other}\n"))
    with pytest.raises(ContractError, match=rf"topic .*: value: there is no {other}"):
        contract.load_models()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEXT.replace("version: 1", "version: 2", 1), "has version 2, not 1"),
        (TEXT + "\ntopics: {}\n", "topics is there twice"),
        ("topics: [", "is not YAML"),
        ("version: 1\n", "has the keys `version` and `topics`"),
        ("version: 1\ntopics: {}\n", "names no topic"),
    ],
)
def test_what_is_no_contract_is_refused(text: str, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        parse_contract(text)
