"""JSON Schemas of services: compiled once, bounded, and asked what is wrong with a payload.

Beyond JSON Schema 2020-12, `"format": "uri"` is asserted: such a text names a file, `blob:<sha256>` or an
http(s) URL that a miner may fetch (`domain.urls.check_url`). Other formats are annotations, as 2020-12 says.
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
"""Of one compiled pattern."""
FILE_FORMAT: Final = "uri"

Validator = jsonschema_rs.Draft202012Validator


class PayloadFault(NamedTuple):
    """One thing that is wrong with a payload, without its values. `place`: the way to it, joined by `/`."""

    place: str
    keyword: str
    text: str


class PayloadSchemas:
    """Validators of input schemas, by service and version; the least lately made goes first.

    `allow_hosts`: hosts that files may come from wherever they are (see `domain.urls.parse_allowed`).
    """

    def __init__(self, allow_hosts: Collection[str] = ()) -> None:
        self._allow_hosts = allow_hosts
        self._compiled: dict[tuple[str, int], Validator] = {}

    def check(self, service: RegisteredService, payload: dict[str, Any]) -> Refusal | None:
        """What the service's input schema says against this payload; it names places, and shows no values."""
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
        """Everything that is wrong with a payload."""
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
    """What is wrong with a registry entry's schemas."""
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
        """The keyword `format`, which asserts `uri` alone."""

        def __init__(self, parent: dict[str, Any], value: Any, path: list[str | int]) -> None:
            self._names_file = value == FILE_FORMAT

        def validate(self, instance: Any) -> None:
            if self._names_file and isinstance(instance, str):
                check_file(instance, allow_hosts)

    return Validator(
        # Through text and back: the schema is then of JSON's own types alone.
        json.loads(json.dumps(schema)),
        # No retriever: a schema that points elsewhere is refused instead of fetched.
        retriever=_refuse,
        # Linear in the text, whatever the pattern: look-around and back references are refused.
        pattern_options=jsonschema_rs.RegexOptions(size_limit=MAX_PATTERN_BYTES),
        keywords={"format": Format},
    )


def check_file(text: str, allow_hosts: Collection[str] = ()) -> None:
    """Raise UnsafeUrl unless this names a file as jobs may: `blob:<sha256>`, or a URL that may be fetched."""
    if not BLOB_REF.fullmatch(text):
        check_url(text, allow_hosts)


def problems(validator: Validator, payload: Any) -> Iterator[PayloadFault]:
    """What is wrong with a payload, one by one."""
    for error in validator.iter_errors(payload):
        keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
        place = "/".join(str(part) for part in error.instance_path)
        text = f"does not fit the schema's {keyword}"
        if keyword == "format":  # asserted by us alone; the message says why, and shows nothing
            text = f"can't be fetched: {error.message}"
        yield PayloadFault(place, keyword, text)


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may not refer to {uri}")
