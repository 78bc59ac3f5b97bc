"""`coordinator service`: the registry of services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from coordinator.cli.errors import Exit, usage
from coordinator.cli.options import Json, Key, Url, json_object, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

SpecText = Annotated[
    str, typer.Argument(metavar="SPEC", help="The registry entry: a JSON object, @FILE, or - for stdin.")
]

app = typer.Typer(help="The registry: services, their payloads and prices.", no_args_is_help=True)


@app.command("list")
def list_services(
    category: Annotated[
        str | None, typer.Option("--category", help="Only this category, such as ai_ml.")
    ] = None,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List all services."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.services(category=category)]

    services = talk(url, api_key, "client", work)
    if as_json:
        terminal.document({"items": services, "next_cursor": None})
        return
    rows = [
        (item.get("id"), item.get("category"), _price(item), item.get("description"))
        for item in sorted(services, key=lambda item: (str(item.get("category")), str(item.get("id"))))
    ]
    terminal.table(("SERVICE", "CATEGORY", "PRICE", "DESCRIPTION"), rows, "No services.")


@app.command()
def show(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show one service: its payload, its requirements, its price."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.service(service)

    found = talk(url, api_key, "client", work)
    if as_json:
        terminal.document(found)
        return
    schema = found.get("input_schema") or {}
    facts = {name: v for name, v in found.items() if name not in ("input_schema", "output_schema", "pricing")}
    terminal.fields({**facts, "price": _price(found)})
    if isinstance(schema, dict) and isinstance(schema.get("properties"), dict):
        terminal.write("\npayload:")
        rows = _fields(schema)
        if any(row[3] for row in rows):
            columns = ["FIELD", "", "TYPE", "ONLY IN", "DESCRIPTION"]
        else:
            columns, rows = ["FIELD", "", "TYPE", "DESCRIPTION"], [[*row[:3], row[4]] for row in rows]
        terminal.table(columns, rows, "Takes no payload.")


def _fields(schema: dict[str, Any]) -> list[list[str]]:
    """The fields of a payload; those of forms between which `if` chooses have the names of their forms."""
    forms = _forms(schema, schema.get("$defs") or {}) or {"": schema}
    found: dict[tuple[str, str], tuple[str, str, list[str]]] = {}
    for form, one in forms.items():
        for name, spec in one["properties"].items():
            if isinstance(spec, dict):
                needed = name in (*(schema.get("required") or ()), *(one.get("required") or ()))
                told = ("required" if needed else "", str(spec.get("description") or ""), list[str]())
                found.setdefault((name, _kind(spec)), told)[2].append(form)
    return [
        [name, needed, kind, "" if len(within) == len(forms) else ", ".join(within), description]
        for (name, kind), (needed, description, within) in found.items()
    ]


def _forms(schema: Any, definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The forms that `then` and `else` of a schema name, by their names."""
    found: dict[str, dict[str, Any]] = {}
    for branch in (schema.get("then"), schema.get("else")) if isinstance(schema, dict) else ():
        if not isinstance(branch, dict):
            continue
        name = str(branch.get("$ref", "")).rpartition("/")[2]
        form = definitions.get(name)
        if isinstance(form, dict) and isinstance(form.get("properties"), dict):
            found[name] = form
        found |= _forms(branch, definitions)
    return found


@app.command()
def register(spec: SpecText, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Register a service: it takes jobs at once. For admins."""
    body = json_object(spec, "SPEC")
    _show(_ask(url, api_key, "POST", "", body), as_json)


@app.command()
def revise(spec: SpecText, url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """Give a service its next version; a retired one takes jobs again. For admins."""
    body = json_object(spec, "SPEC")
    name = body.get("id")
    if not isinstance(name, str):
        raise usage("SPEC has no id", "Its member `id` names the service to revise.")
    _show(_ask(url, api_key, "PUT", f"/{_part(name)}", body), as_json)


@app.command()
def retire(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Its id.")],
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Let a service take no new jobs. For admins."""
    _show(_ask(url, api_key, "POST", f"/{_part(service)}/retire", {}), as_json)


@app.command()
def versions(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """List the changes of a service, oldest first."""
    page = _ask(url, api_key, "GET", f"/{_part(service)}/versions", role="client")
    if as_json:
        terminal.document(page)
        return
    rows = [(i.get("version"), i.get("change"), i.get("at"), i.get("by")) for i in page["items"]]
    terminal.table(("VERSION", "CHANGE", "AT", "BY"), rows, "No versions.")


@app.command()
def check(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Its id, or an alias.")],
    payload: Annotated[
        str, typer.Option("--payload", help="The input: a JSON object, @FILE, or - for stdin.")
    ] = "{}",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Check a payload without submitting it. Exits with 1 if it is invalid."""
    body = {"service": service, "payload": json_object(payload, "--payload")}
    answer = _ask(url, api_key, "POST", "/validate", body, role="client")
    if as_json:
        terminal.document(answer)
    elif answer["valid"]:
        terminal.write(f"{terminal.plain(answer['service'])} takes this payload.")
    else:
        rows = [(fault["place"] or "payload", fault["message"]) for fault in answer["faults"]]
        terminal.table(("FIELD", "PROBLEM"), rows, "")
    if not answer["valid"]:
        raise typer.Exit(Exit.FAILED)


def _ask(
    url: str | None,
    api_key: str | None,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    role: str = "admin",
) -> dict[str, Any]:
    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        options = {} if body is None else {"json": body}
        return await client.http.ask_json(method, f"/v1/registry/services{path}", **options)

    return talk(url, api_key, role, work)


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.document(answer)
    else:
        terminal.fields(answer)


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
