"""`coordinator service`: the registry of what can be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.cli import output
from coordinator.cli.options import DEFAULT_URL, Json, Key, Url, talk

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(help="The registry: what can be asked for, and what it costs.", no_args_is_help=True)


@app.command("list")
def list_services(
    category: Annotated[str | None, typer.Option("--category", help="Only these, such as ai_ml.")] = None,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """All services."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.services(category=category)]

    services = talk(url, api_key, "client", work)
    if as_json:
        output.document({"items": services, "next_cursor": None})
        return
    rows = [
        (item.get("id"), item.get("category"), _price(item), item.get("description"))
        for item in sorted(services, key=lambda item: (str(item.get("category")), str(item.get("id"))))
    ]
    output.table(("SERVICE", "CATEGORY", "PRICE", "DESCRIPTION"), rows, "No services.")


@app.command()
def show(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """One service: what a payload may hold, what a miner needs, what it costs."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.service(service)

    found = talk(url, api_key, "client", work)
    if as_json:
        output.document(found)
        return
    schema = found.get("input_schema") or {}
    head = {name: v for name, v in found.items() if name not in ("input_schema", "output_schema", "pricing")}
    output.fields({**head, "price": _price(found)})
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if isinstance(properties, dict):
        output.write("\npayload:")
        required = schema.get("required") or ()
        rows = [
            (name, "required" if name in required else "", _kind(spec), spec.get("description"))
            for name, spec in properties.items()
            if isinstance(spec, dict)
        ]
        output.table(("FIELD", "", "TYPE", "DESCRIPTION"), rows, "Takes no payload.")


def _price(service: dict[str, Any]) -> str:
    pricing = service.get("pricing")
    if not isinstance(pricing, dict):
        return ""
    return f"{pricing.get('amount')} {pricing.get('currency', '')} / {pricing.get('unit')}"


def _kind(spec: dict[str, Any]) -> str:
    """A short form of a property's schema: its choices, or its type with bounds and default."""
    if "enum" in spec:
        text = " | ".join(str(value) for value in spec["enum"])
    else:
        kinds = spec.get("type") or ()
        text = " | ".join(kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind != "null")
        low, high = spec.get("minimum", spec.get("minLength")), spec.get("maximum", spec.get("maxLength"))
        if low is not None or high is not None:
            text += f" {'' if low is None else low}..{'' if high is None else high}"
    return f"{text} = {spec['default']}" if "default" in spec else text
