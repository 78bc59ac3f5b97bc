"""`coordinator webhook`: URLs that are told of jobs, miners and faults."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coordinator.cli.errors import CommandError, Exit, usage
from coordinator.cli.options import Json, Key, Url, id_argument, seconds_of, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.client import AsyncCoordinator

app = typer.Typer(
    help="URLs that are told of jobs, miners and faults, and what became of the messages.",
    no_args_is_help=True,
)

CALLBACKS = "callbacks"
TEST_SECONDS = 65.0
"""The longest wait for a test's outcome: a try may take WEBHOOK_TIMEOUT_SECONDS."""
_HINT = "`coordinator webhook list` shows the ids; `callbacks` stands for the --callback-url of your jobs."
_known_id = id_argument("webhook", _HINT)


def _id_or_callbacks(text: str) -> str:
    return text if text == CALLBACKS else _known_id(text)


WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK_ID", help="Its id.", callback=_known_id)]
AnyId = Annotated[
    str,
    typer.Argument(
        metavar="WEBHOOK_ID", help="Its id; `callbacks` for those of your jobs.", callback=_id_or_callbacks
    ),
]
As = Annotated[
    Literal["client", "miner", "admin"],
    typer.Option("--as", help="Which key of a `coordinator dev` here to use, without --api-key."),
]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="TYPE", help="Such as job.failed; several times for several."),
]


@app.command()
def add(
    receiver: Annotated[str, typer.Argument(metavar="URL", help="The receiver's public https URL.")],
    event: Events = None,
    label: Annotated[str, typer.Option("--label", help="A note on its purpose, for people.")] = "",
    role: As = "client",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Have messages sent to a URL; prints the secret that verifies them."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.webhooks.create(receiver, events=event, label=label)

    _show(talk(url, api_key, role, work), as_json)


@app.command("list")
def list_webhooks(role: As = "client", url: Url = None, api_key: Key = None, as_json: Json = False) -> None:
    """List your webhooks; for admins, all of them."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        return [item async for item in client.webhooks.list()]

    found = talk(url, api_key, role, work)
    if as_json:
        terminal.document({"items": found, "next_cursor": None})
        return
    rows = [
        [
            item["webhook_id"],
            item["owner"],
            item["host"],
            "enabled" if item["enabled"] else "DISABLED",
            item["failures"],
            item["succeeded_at"],
            " ".join(item["events"]),
            item["label"],
        ]
        for item in found
    ]
    columns = ("WEBHOOK", "OWNER", "HOST", "STATE", "FAILURES", "SUCCEEDED", "EVENTS", "LABEL")
    terminal.table(columns, rows, "No webhooks.")


@app.command()
def show(
    webhook_id: WebhookId, role: As = "client", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Everything about a webhook, without its secret."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.webhooks.show(webhook_id)

    _show(talk(url, api_key, role, work), as_json)


@app.command()
def secret(
    webhook_id: AnyId = CALLBACKS,
    role: As = "client",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Show the secret that verifies the messages, to its owner."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.webhooks.secret(webhook_id)

    _show(talk(url, api_key, role, work), as_json)


@app.command()
def change(
    webhook_id: WebhookId,
    receiver: Annotated[str | None, typer.Option("--to", metavar="URL", help="Another receiver.")] = None,
    event: Events = None,
    label: Annotated[str | None, typer.Option("--label", help="Another note.")] = None,
    enabled: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="Send again, or record messages and send none."),
    ] = None,
    role: As = "client",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Change a webhook; what is not named stays as it is."""
    if receiver is None and not event and label is None and enabled is None:
        raise usage("nothing to change", "`coordinator webhook change --help` lists the options.")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.webhooks.change(
            webhook_id, url=receiver, events=event or None, label=label, enabled=enabled
        )

    _show(talk(url, api_key, role, work), as_json)


@app.command("test")
def send_test(
    webhook_id: WebhookId, role: As = "client", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Send a test message, and wait for its outcome."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        import asyncio

        sent = await client.webhooks.test(webhook_id)
        end = time.monotonic() + TEST_SECONDS
        while True:
            async for found in client.webhooks.deliveries(webhook_id, limit=20):
                if found["position"] == sent["position"] and (
                    found["state"] != "PENDING" or time.monotonic() > end
                ):
                    return found
            if time.monotonic() > end:
                raise CommandError(
                    "TIMEOUT", "the test message was not sent in time", "Try again.", Exit.UNREACHABLE
                )
            await asyncio.sleep(0.1)

    found = talk(url, api_key, role, work)
    last = found["attempts"][-1] if found["attempts"] else {}
    if as_json:
        terminal.document(found)
    else:
        terminal.fields(
            {
                "delivery_id": found["delivery_id"],
                "state": found["state"],
                "status": last.get("status"),
                "error": last.get("error"),
                "ms": last.get("ms"),
            }
        )
    if found["state"] != "DELIVERED":
        cause = last.get("error") or f"the receiver answered {last.get('status')}"
        raise CommandError(
            "NOT_DELIVERED", cause, "Any status from 200 to 299 within the timeout is a success.", Exit.FAILED
        )


@app.command()
def rotate(
    webhook_id: AnyId = CALLBACKS,
    grace: Annotated[
        str, typer.Option("--grace", help="How long the old secret signs, too, such as 1d; 0: no longer.")
    ] = "1d",
    generation: Annotated[
        int | None, typer.Option("--generation", help="Do nothing unless this is the newest generation.")
    ] = None,
    role: As = "client",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Give a webhook a new secret."""
    seconds = seconds_of(grace, "--grace")

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.webhooks.rotate(webhook_id, grace_seconds=seconds, generation=generation)

    _show(talk(url, api_key, role, work), as_json)


@app.command()
def remove(
    webhook_id: WebhookId, role: As = "client", url: Url = None, api_key: Key = None, as_json: Json = False
) -> None:
    """Send nothing more, for good."""

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.webhooks.remove(webhook_id)

    _show(talk(url, api_key, role, work), as_json)


@app.command()
def deliveries(
    webhook_id: AnyId = CALLBACKS,
    state: Annotated[
        Literal["PENDING", "DELIVERED", "FAILED"] | None,
        typer.Option("--state", case_sensitive=False, help="Only messages in this state."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only messages about this job, miner or fault.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    role: As = "client",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """The messages and what became of them, newest first."""

    async def work(client: AsyncCoordinator) -> list[dict[str, Any]]:
        found = client.webhooks.deliveries(webhook_id, state=state, subject=subject, limit=limit)
        return [item async for item in found]

    found = talk(url, api_key, role, work)
    if as_json:
        terminal.document({"items": found, "next_cursor": None})
        return
    rows = []
    for item in found:
        last = item["attempts"][-1] if item["attempts"] else {}
        rows.append(
            [
                item["delivery_id"],
                item["type"],
                item["subject"],
                item["at"],
                item["state"],
                item["tries"],
                last.get("error") or last.get("status"),
                last.get("ms"),
                item["due_at"],
            ]
        )
    columns = ("DELIVERY", "TYPE", "SUBJECT", "AT", "STATE", "TRIES", "LAST", "MS", "NEXT")
    terminal.table(columns, rows, "No deliveries.")


@app.command()
def replay(
    webhook_id: AnyId = CALLBACKS,
    delivery: Annotated[
        list[str] | None, typer.Option("--delivery", metavar="ID", help="This message; several times.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="All undelivered messages of this long, such as 6h or 2d."),
    ] = None,
    role: As = "client",
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Send messages again, under the ids that they had."""
    if bool(delivery) == (since is not None):
        raise usage("give --delivery or --since", "`coordinator webhook deliveries` shows the ids.")
    moment = None if since is None else int(time.time() - seconds_of(since, "--since")) * 1000

    async def work(client: AsyncCoordinator) -> dict[str, Any]:
        return await client.webhooks.replay(webhook_id, deliveries=delivery or None, since=moment)

    _show(talk(url, api_key, role, work), as_json)


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        terminal.document(answer)
        return
    shown = {name: value for name, value in answer.items() if name != "status"}
    if isinstance(shown.get("events"), list):
        shown["events"] = " ".join(shown["events"])
    terminal.fields(shown)
