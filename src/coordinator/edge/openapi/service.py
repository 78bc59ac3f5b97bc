"""One service as an OpenAPI 3.1 document: how its jobs are submitted, in its own schemas."""

from __future__ import annotations

from typing import Any, Final

from coordinator.domain.job import JobSubmit

_REF: Final = "#/components/schemas/{model}"


def service_document(entry: dict[str, Any]) -> dict[str, Any]:
    """The document. `entry`: a registry entry with `version` and `retired`."""
    command = JobSubmit.model_json_schema(ref_template=_REF)
    components: dict[str, Any] = command.pop("$defs", {})
    components["Payload"] = _embedded(entry["input_schema"], "Payload")
    components["Result"] = _embedded(entry["output_schema"], "Result")
    command["properties"]["service"] = {"const": entry["id"]}
    command["properties"]["payload"] = {"$ref": "#/components/schemas/Payload"}
    examples = entry["input_schema"].get("examples", [])
    body: dict[str, Any] = {"schema": command}
    if examples:
        body["example"] = {"service": entry["id"], "payload": examples[0]}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": entry["name"],
            "version": str(entry["version"]),
            "description": entry["description"],
        },
        "servers": [{"url": "/"}],
        "security": [{"ApiKey": []}],
        "paths": {
            "/v1/jobs": {
                "post": {
                    "operationId": f"submit_{entry['id']}",
                    "summary": f"Submit a job of {entry['id']}",
                    "deprecated": bool(entry["retired"]),
                    "requestBody": {"required": True, "content": {"application/json": body}},
                    "responses": {
                        "201": {
                            "description": "The job is in the log; with `Prefer: wait=N` it may be final.",
                            "content": {
                                "application/json": {
                                    "schema": {
                                        "type": "object",
                                        "properties": {
                                            "job_id": {"type": "string", "format": "uuid"},
                                            "state": {"type": "string"},
                                            "position": {"type": "integer"},
                                            "result": {"$ref": "#/components/schemas/Result"},
                                        },
                                    }
                                }
                            },
                        },
                        "422": {"description": "INVALID_PAYLOAD: a problem that names the invalid members."},
                    },
                }
            }
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"ApiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
    }


def _embedded(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """A schema as a component: references inside it now point into the document."""
    made: dict[str, Any] = _moved(schema, f"#/components/schemas/{name}/")
    for keyword in ("$id", "$schema"):
        made.pop(keyword, None)
    return made


def _moved(value: Any, to: str) -> Any:
    if isinstance(value, list):
        return [_moved(item, to) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _moved(item, to) for key, item in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        made["$ref"] = to + reference.removeprefix("#/")
    return made
