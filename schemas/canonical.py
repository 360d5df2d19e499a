"""Canonical JSON (RFC 8785) of pydantic models, written and read strictly.

FormatError
├── NotCanonical      JSON that differs from its canonical form by a byte
└── InvalidModel      JSON that is not what the model says
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import FormatError

Model = TypeVar("Model", bound=BaseModel)
LARGEST = 2**53 - 1
"""The largest whole number that every reader of JSON has exactly: the limit of all numbers that
travel, in frame records and chunks, too."""
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""32 bytes, such as a SHA-256."""
_SORTED = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")
)


class NotCanonical(FormatError):
    """The bytes are not JSON in canonical form."""


class InvalidModel(FormatError):
    """A field is missing, unknown or of a wrong value."""


class Strict(BaseModel):
    """Base of all JSON that travels: no coercion, no unknown fields, no mutation."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def canonical(value: Any) -> bytes:
    """The canonical form of a JSON value; raises rfc8785.CanonicalizationError."""
    if _is_plain(value):
        try:
            return _SORTED.encode(value).encode()
        except UnicodeEncodeError:
            pass  # half of a surrogate pair, which the other way names
    return rfc8785.dumps(value)


def _is_plain(value: Any) -> bool:
    """Whether Python's own encoder writes the same, in a tenth of the time.

    It orders names by code points and not by UTF-16, has another form for fractions, and takes
    any whole number.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is int:
        return bool(-LARGEST <= value <= LARGEST)
    if kind is dict:
        for name, one in value.items():
            if type(name) is not str or not name.isascii() or not _is_plain(one):
                return False
        return True
    if kind is list:
        return all(_is_plain(one) for one in value)
    return False


def encode(model: BaseModel) -> bytes:
    """The canonical JSON of a model. Raises InvalidModel for numbers beyond 2^53."""
    try:
        return canonical(model.model_dump(mode="json"))
    except rfc8785.CanonicalizationError as error:
        raise InvalidModel(f"{type(model).__name__} has no canonical JSON: {error}") from error


def decode(model: type[Model], data: bytes) -> Model:
    """Read what `encode` wrote; any other bytes raise NotCanonical or InvalidModel.

    What is encoded to the same bytes is JSON as it should be, so that these are parsed once; only
    for others is it looked up what is wrong with them.
    """
    try:
        parsed = model.model_validate_json(data)
    except (ValidationError, ValueError, RecursionError):
        parsed = decode_any(model, data)
    if encode(parsed) != data:
        decode_any(model, data)
        raise NotCanonical(f"the {model.__name__} is not in canonical form (RFC 8785)")
    return parsed


def decode_any(model: type[Model], data: bytes) -> Model:
    """Read a model from JSON in any form, as people write it; raises InvalidModel."""
    try:
        text = data.decode("utf-8")
        json.loads(text, parse_constant=_refuse)
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise InvalidModel(f"{model.__name__}: {place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise NotCanonical(f"the {model.__name__} is not JSON: {error}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
