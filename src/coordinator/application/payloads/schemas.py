"""Validation of payloads and results by the services' JSON Schemas, which are bounded and compiled once.

Beyond JSON Schema 2020-12, `"format": "uri"` is asserted: such a text names a file, `blob:<sha256>` or an
http(s) URL that a miner may fetch (`wire.http.urls.check_url`). Other formats are annotations, as in 2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, Final, Literal, NamedTuple

import jsonschema_rs

from coordinator.application.payloads.large_documents import LARGE_BYTES, rough_json
from coordinator.application.payloads.schema_bounds import check_bounded
from coordinator.application.payloads.schema_faults import PayloadFault, problems
from coordinator.crypto.json_size import has_more_values
from coordinator.crypto.refs import BLOB_REF
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.service import RegisteredService, ServiceSpec
from coordinator.wire.http.urls import check_url

MAX_COMPILED_SCHEMAS: Final = 256
MAX_PROBLEMS_TOLD: Final = 3
MAX_CHECKS: Final = 2_500_000
"""Values of a document times subschemas: up to it, the validator takes 20 ms at most."""
MAX_LISTED_CHECKS: Final = 20_000
"""The same for a list of faults: the validator makes all of them at once, 10 microseconds each."""
MAX_PATTERN_BYTES: Final = 2**20
"""The size limit of one compiled pattern."""
FILE_FORMAT: Final = "uri"

Validator = jsonschema_rs.Draft202012Validator


class Compiled(NamedTuple):
    """A schema's validator, and the number of its subschemas."""

    validator: Validator
    subschemas: int


Side = Literal["input", "output"]


class PayloadSchemas:
    """Validators of schemas, by service, version and side; the oldest is dropped first.

    `allow_hosts`: hosts that files may come from, at any address (see `wire.http.urls.parse_allowed`).
    """

    def __init__(self, allow_hosts: Collection[str] = ()) -> None:
        self._allow_hosts = allow_hosts
        self._compiled: dict[tuple[str, int, Side], Compiled] = {}

    def check(
        self, service: RegisteredService, payload: dict[str, Any], rough: bytes | None = None
    ) -> Refusal | None:
        """The refusal of a payload that breaks the input schema; it names places and shows no values.

        `rough`: the payload as JSON, if the caller has it.
        """
        text = _fault(self._of(service, "input"), payload, rough, "payload")
        return None if text is None else Refusal(Code.INVALID_PAYLOAD, f"{service.spec.id}: {text}")

    def check_result(
        self, service: RegisteredService, result: dict[str, Any], rough: bytes | None = None
    ) -> Refusal | None:
        """Like `check`, for a result and the output schema of this version."""
        text = _fault(self._of(service, "output"), result, rough, "result")
        return None if text is None else Refusal(Code.INVALID_RESULT, f"{service.spec.id}: {text}")

    def knows_result(self, service: str, version: int) -> bool:
        """Whether the output schema of this version is compiled already."""
        return (service, version, "output") in self._compiled

    def problems(self, service: RegisteredService, payload: dict[str, Any]) -> Iterator[PayloadFault]:
        """All faults of a payload; a single one, without its place, for a large payload."""
        compiled = self._of(service, "input")
        rough = rough_json(payload)
        if compiled.validator.is_valid(payload) and not _too_many(compiled, rough):
            return iter(())
        if has_more_values(rough, MAX_LISTED_CHECKS // compiled.subschemas):
            return iter([PayloadFault("", "schema", _UNLISTED)])
        return problems(compiled.validator, payload)

    def _of(self, service: RegisteredService, side: Side) -> Compiled:
        key = (service.spec.id, service.version, side)
        found = self._compiled.get(key)
        if found is None:
            schema = service.spec.input_schema if side == "input" else service.spec.output_schema
            found = Compiled(compile_schema(schema, self._allow_hosts), check_bounded(schema))
            self._compiled[key] = found
            if len(self._compiled) > MAX_COMPILED_SCHEMAS:
                del self._compiled[next(iter(self._compiled))]
        return found


_UNLISTED: Final = "does not fit the schema; it is too large for a list of its faults"


def _too_many(compiled: Compiled, rough: bytes) -> bool:
    return has_more_values(rough, MAX_CHECKS // compiled.subschemas)


def _fault(compiled: Compiled, document: dict[str, Any], rough: bytes | None, root: str) -> str | None:
    """The faults of a document in one line; None if there is none."""
    if rough is not None and len(rough) > LARGE_BYTES and _too_many(compiled, rough):
        return f"{root} has too many values for this schema; send large data as a file"
    if compiled.validator.is_valid(document):
        return None
    if has_more_values(rough or rough_json(document), MAX_LISTED_CHECKS // compiled.subschemas):
        return f"{root} {_UNLISTED}"
    found = zip(problems(compiled.validator, document), range(MAX_PROBLEMS_TOLD), strict=False)
    return "; ".join(dict.fromkeys(f"{problem.place or root} {problem.text}" for problem, _ in found))


def check_spec(spec: ServiceSpec) -> Refusal | None:
    """The fault of a registry entry's schemas, if any."""
    for name, schema in (("input", spec.input_schema), ("output", spec.output_schema)):
        try:
            check_bounded(schema)  # first: it bounds the work of the compiler
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


def _refuse(uri: str) -> Any:
    raise ValueError(f"a schema may not refer to {uri}")
