"""The service `checksum`: digests of a short text or of files. The smallest real job."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, TypeAdapter

from coordinator.services.base import Either, FileRef, KnownService, Payload, Result, ResultPart

Algorithm = Literal["sha256", "sha512", "blake2b"]


class ChecksumPayload(Either, Payload):
    """Either a text, or files, which are digested in their order."""

    EITHER: ClassVar = ("text", "inputs")

    algorithm: Algorithm = "sha256"
    text: Annotated[str, Field(max_length=65_536)] | None = None
    """Digested as UTF-8."""
    inputs: Annotated[list[FileRef], Field(min_length=1, max_length=100)] | None = None
    """References to uploaded files."""


class Checksum(ResultPart):
    input: str
    """The reference, or "text"."""
    digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64}|[0-9a-f]{128})$")]
    """Lowercase hex."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""


class Checksums(Result):
    algorithm: Algorithm
    digests: Annotated[list[Checksum], Field(min_length=1, max_length=100)]


SERVICE: Final = KnownService("checksum", TypeAdapter(ChecksumPayload), Checksums)
