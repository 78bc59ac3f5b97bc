"""Validation of payloads by the services' JSON Schemas, which are bounded and compiled once.

Beyond JSON Schema 2020-12, `"format": "uri"` is asserted: such a text names a file, `blob:<sha256>` or an
http(s) URL that a miner may fetch (`wire.urls.check_url`). Other formats are annotations, as in 2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import jsonschema_rs

from coordinator.application.payloads.schema_bounds import check_bounded
from coordinator.crypto.refs import BLOB_REF
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.service import RegisteredService, ServiceSpec
from coordinator.wire.urls import check_url

MAX_COMPILED_SCHEMAS: Final = 256
MAX_PROBLEMS_TOLD: Final = 3
MAX_PATTERN_BYTES: Final = 2**20
"""The size limit of one compiled pattern."""
FILE_FORMAT: Final = "uri"

Validator = jsonschema_rs.Draft202012Validator


class PayloadFault(NamedTuple):
    """One fault of a payload, without its values. `place`: the path to it, joined by `/`."""

    place: str
    keyword: str
    text: str


class PayloadSchemas:
    """Validators of input schemas, by service and version; the oldest is dropped first.

    `allow_hosts`: hosts that files may come from, at any address (see `wire.urls.parse_allowed`).
    """

    def __init__(self, allow_hosts: Collection[str] = ()) -> None:
        self._allow_hosts = allow_hosts
        self._compiled: dict[tuple[str, int], Validator] = {}

    def check(self, service: RegisteredService, payload: dict[str, Any]) -> Refusal | None:
        """The refusal of a payload that breaks the input schema; it names places and shows no values."""
        validator = self._of(service)
        if validator.is_valid(payload):
            return None
        told = [
            problem
            for problem, _ in zip(problems(validator, payload), range(MAX_PROBLEMS_TOLD), strict=False)
        ]
        texts = [f"{problem.place or 'payload'} {problem.text}" for problem in told]
        return Refusal(Code.INVALID_PAYLOAD, f"{service.spec.id}: " + "; ".join(texts))

    def problems(self, service: RegisteredService, payload: dict[str, Any]) -> Iterator[PayloadFault]:
        """All faults of a payload."""
        return problems(self._of(service), payload)

    def _of(self, service: RegisteredService) -> Validator:
        key = (service.spec.id, service.version)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = compile_schema(service.spec.input_schema, self._allow_hosts)
            if len(self._compiled) > MAX_COMPILED_SCHEMAS:
                del self._compiled[next(iter(self._compiled))]
        return found


def check_spec(spec: ServiceSpec) -> Refusal | None:
    """The fault of a registry entry's schemas, if any."""
    for name, schema in (("input", spec.input_schema), ("output", spec.output_schema)):
        try:
            check_bounded(schema)
            compile_schema(schema)
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            return Refusal(Code.INVALID_PAYLOAD, f"{name}_schema can't be used: {str(error)[:200]}")
    return None


def compile_schema(schema: dict[str, Any], allow_hosts: Collection[str] = ()) -> Validator:
    """A validator. Raises ValueError (as jsonschema_rs.ValidationError), jsonschema_rs.ReferencingError."""

    class Format:
        """The keyword `format`, which asserts `uri` only."""

        def __init__(self, parent: dict[str, Any], value: Any, path: list[str | int]) -> None:
            self._names_file = value == FILE_FORMAT

        def validate(self, instance: Any) -> None:
            if self._names_file and isinstance(instance, str):
                check_file(instance, allow_hosts)

    return Validator(
        # A round trip through text leaves JSON's own types only.
        json.loads(json.dumps(schema)),
        # No retriever: a schema that points elsewhere is refused instead of fetched.
        retriever=_refuse,
        # Linear time for every pattern: look-around and back references are refused.
        pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
        keywords={"format": Format},
    )


def check_file(text: str, allow_hosts: Collection[str] = ()) -> None:
    """Raise UnsafeUrl unless this names a file: `blob:<sha256>`, or a URL that a miner may fetch."""
    if not BLOB_REF.fullmatch(text):
        check_url(text, allow_hosts)


def problems(validator: Validator, payload: Any) -> Iterator[PayloadFault]:
    """The faults of a payload, one by one."""
    for error in validator.iter_errors(payload):
        keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
        place = "/".join(str(part) for part in error.instance_path)
        text = f"does not fit the schema's {keyword}"
        if keyword == "format":  # our own assertion; the message has the reason and shows no value
            text = f"can't be fetched: {error.message}"
        yield PayloadFault(place, keyword, text)


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may not refer to {uri}")
