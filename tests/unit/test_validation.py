"""Pydantic's errors as text: they name fields and rules, and never show a value."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, ValidationError, field_validator

from coordinator.validation import describe_invalid, describe_meant, first_invalid_field
from tests.harness.cases import every

SECRET = "hunter2"


class Colour(StrEnum):
    RED = "red"


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Everything(BaseModel):
    """A field of each type whose error could quote the input."""

    model_config = ConfigDict(extra="forbid")

    whole: int
    real: float
    yes: bool
    exact: Decimal
    id: UUID
    at: datetime
    url: AnyUrl
    address: IPv4Address
    colour: Colour
    word: Literal["a", "b"]
    short: Annotated[str, Field(max_length=3)]
    pattern: Annotated[str, Field(pattern="^[a-z]$")]
    items: list[int]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    checked: str

    @field_validator("checked")
    @classmethod
    def _never(cls, value: str) -> str:
        raise ValueError("must be something else")


def refused(model: type[BaseModel], value: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return caught.value


def test_no_value_is_shown() -> None:
    """Whatever the rule, the text has the field's name and not the value."""
    fields = dict.fromkeys(Everything.model_fields, SECRET)
    text = describe_invalid(refused(Everything, {**fields, "pet": {"kind": SECRET}}), most=100)
    assert SECRET not in text
    assert [] == [name for name in fields if name not in text]
    assert "checked: must be something else" in text


def test_the_first_and_the_rest() -> None:
    """Five fields are named and the others counted; the whole document goes by the name that is given."""
    text = describe_invalid(refused(Everything, {}))
    assert text.startswith("whole: Field required; real: Field required")
    assert text.endswith("; and 10 more")
    assert 5 == text.count("Field required")
    assert ("whole", "Field required", "missing") == first_invalid_field(refused(Everything, {}))
    assert describe_invalid(refused(Everything, SECRET), "payload").startswith("payload: Input should be")


def test_a_name_that_would_spoil_the_line() -> None:
    """The sender chose the names of unknown fields: line breaks and very long names are left out."""
    for name in ("a\nb", "x" * 65):
        text = describe_invalid(refused(Everything, {name: 1}), most=100)
        assert "?: Extra inputs are not permitted" in text
        assert name not in text


class Film(BaseModel):
    model_config = ConfigDict(strict=True)

    crf: int
    tracks: list[str] = Field(default=[], alias="with")


@every(
    ("document", "expected"),
    [
        ({"crf": SECRET}, "crf: Input should be a valid integer, not a string"),
        ({"crf": 1.5}, "crf: Input should be a valid integer, not a number"),
        ({"crf": None}, "crf: Input should be a valid integer, not null"),
        ({"crf": 1, "with": {"a": SECRET}}, "with: Input should be a valid list, not an object"),
        ({"crf": 1, "with": ["a", 5]}, "with.1: Input should be a valid string, not an integer"),
        ({}, "crf: Field required"),
    ],
)
def test_a_wrong_kind_of_value_is_told(document: dict[str, Any], expected: str) -> None:
    """What was expected, and what kind of value was sent; not the value."""
    with pytest.raises(ValidationError) as invalid:
        Film.model_validate(document)
    assert expected == describe_meant(invalid.value, document)
