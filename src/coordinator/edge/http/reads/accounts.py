"""The answers about accounts: balances, entries, signed statements, and quotes."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from typing import Any, Final

from pydantic_core import from_json
from starlette.responses import Response

from coordinator.application.commands.parsing import parse_command
from coordinator.crypto.canonical import canonical_json
from coordinator.crypto.receipt import receipt_id
from coordinator.domain.account import FEES
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.job import JobSubmit, no_service
from coordinator.domain.job.price import most
from coordinator.domain.job.terms import terms_of
from coordinator.domain.matching.needs import asked_price, wanted
from coordinator.domain.matching.units import UNIT_TYPES
from coordinator.domain.messages import Millis
from coordinator.domain.service import RegisteredService, ServiceSpec
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.reads.reading import POSITION_HEADER, cursor_after, read_cursor
from coordinator.edge.models.parties.accounts import (
    AccountServices,
    AccountView,
    EntryView,
    HoldView,
    PriceView,
    QuoteView,
    ServiceAmount,
    Statement,
)

STATEMENT: Final = b"coordinator statement 1\n"
DAY_MILLIS: Final = 86_400_000
MAX_LINES: Final = 10_000
"""Entries in one statement."""
_CURSOR: Final = (r"[0-9]{1,16}", r"[0-9]{1,9}")
_LAST: Final = 2**53
_COLUMNS: Final = (
    "position",
    "at",
    "kind",
    "amount",
    "balance",
    "job_id",
    "receipt_id",
    "available_at",
    "disputed",
    "units",
    "unit_type",
    "posting",
    "reason",
)


def check_kept(context: EdgeContext) -> None:
    """Raise Refusal where no accounts are kept."""
    if context.settings.settlement == "off":
        raise Refusal(Code.CONFLICT_STATE, "no accounts are kept here; the operator sets SETTLEMENT=on")


def now() -> Millis:
    return time.time_ns() // 1_000_000


def account_view(context: EdgeContext, party: str, row: dict[str, Any] | None) -> AccountView:
    """An account; one without a row has nothing."""
    found = row or {"balance": 0, "held": 0, "disputed": 0, "pending": 0, "position": 0}
    free = found["balance"] - found["held"] - found["disputed"]
    # A credit that was spent is not pending again for a clock that was set back.
    pending = max(0, min(found["pending"], free))
    return AccountView(
        party=party,
        unit=context.settings.money_unit,
        balance=found["balance"],
        available=free - pending,
        held=found["held"],
        pending=pending,
        disputed=found["disputed"],
        position=found["position"],
    )


def entry_view(row: dict[str, Any]) -> EntryView:
    """One line of an account."""
    job_id, attempt = row["job_id"], row["attempt"]
    # Work on a cancelled job has none.
    has_receipt = attempt is not None and not row["posting"].startswith("partial/")
    return EntryView(
        position=row["posted_position"],
        at=row["posted_at"],
        posting=row["posting"],
        kind=row["kind"],
        amount=row["amount"],
        balance=row["balance"],
        job_id=job_id,
        receipt_id=receipt_id(job_id, attempt) if has_receipt else None,
        available_at=row["available_at"],
        disputed=row["contested"] == "DISPUTED" and row["amount"] > 0 and row["party"] != FEES,
        reason=row["reason"],
        units=row["units"],
        unit_type=row["unit_type"],
    )


def lines_before(cursor: str | None) -> tuple[int, int]:
    """The position and the place before which a page of lines begins. Raises Refusal."""
    position, place = read_cursor(cursor, *_CURSOR) or (str(_LAST), "0")
    return int(position), int(place)


def lines_after(row: dict[str, Any]) -> str:
    """The cursor of the page after this line."""
    return cursor_after(str(row["posted_position"]), str(row["place"]))


async def services_of(context: EdgeContext, party: str, days: int) -> AccountServices:
    """What an account spent and earned on which service, in so many days of UTC, today included."""
    since = (now() // DAY_MILLIS - days + 1) * DAY_MILLIS
    rows = await context.money_reads.by_day(party, since)
    return AccountServices.model_validate(
        {
            "party": party,
            "unit": context.settings.money_unit,
            "from": since,
            "spent": amounts((row.service, row.spent, row.paid_jobs) for row in rows),
            "earned": amounts((row.service, row.earned, row.credited_jobs) for row in rows),
        }
    )


def amounts(rows: Iterable[tuple[str, int, int]]) -> list[ServiceAmount]:
    """The sums of these amounts and numbers of jobs by service, the greatest first."""
    found: dict[str, tuple[int, int]] = {}
    for service, amount, jobs in rows:
        before = found.get(service, (0, 0))
        found[service] = before[0] + amount, before[1] + jobs
    lines = [ServiceAmount(service=s, amount=a, jobs=j) for s, (a, j) in found.items() if a or j]
    return sorted(lines, key=lambda line: (-line.amount, line.service))


async def statement_of(
    context: EdgeContext, party: str, since: Millis, until: Millis, position: int
) -> Statement:
    """The signed statement. Raises Refusal for a period with too many entries."""
    if context.sign is None:
        raise Refusal(Code.UNAVAILABLE, "this process signs no statements; ask another one")
    opening, rows, holds = await context.reads.statement(party, since, until, MAX_LINES + 1)
    if max(len(rows), len(holds)) > MAX_LINES:
        raise Refusal(
            Code.INVALID_PAYLOAD, f"from, to: more than {MAX_LINES} entries; ask for a shorter period"
        )
    unsigned = Statement.model_validate(
        {
            "party": party,
            "unit": context.settings.money_unit,
            "from": since,
            "to": until,
            "opening": opening,
            "lines": [entry_view(row) for row in rows],
            "closing": opening + sum(row["amount"] for row in rows),
            "holds": [HoldView.model_validate(row) for row in holds],
            "position": position,
            "signature": {},
        }
    )
    document = unsigned.model_dump(mode="json", by_alias=True, exclude={"signature"})
    return unsigned.model_copy(update={"signature": context.sign(STATEMENT + canonical_json(document))})


def statement_answer(statement: Statement, form: str, position: int) -> Response:
    """The statement as a document, or as a table, which is not signed."""
    if form == "csv":
        name = f'attachment; filename="statement-{statement.party.lstrip("@")}.csv"'
        return Response(as_csv(statement), 200, {"Content-Disposition": name}, "text/csv")
    return Response(
        statement.model_dump_json(by_alias=True), 200, {POSITION_HEADER: str(position)}, "application/json"
    )


def as_csv(statement: Statement) -> str:
    """The statement as a table: the opening, each line, the closing, and the holds."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(_COLUMNS)
    whole = statement.model_dump(mode="json", by_alias=True)
    writer.writerow(_line({"at": whole["from"], "kind": "opening", "balance": whole["opening"]}))
    for line in whole["lines"]:
        writer.writerow(_line(line))
    writer.writerow(_line({"at": whole["to"], "kind": "closing", "balance": whole["closing"]}))
    for hold in whole["holds"]:
        told = {"at": hold["held_at"], "kind": "hold", "amount": hold["amount"], "job_id": hold["job_id"]}
        writer.writerow(_line(told))
    return table.getvalue()


def _line(values: dict[str, Any]) -> list[Any]:
    # A spreadsheet would run a text that begins like a formula.
    reason = str(values.get("reason") or "")
    safe = f"'{reason}" if reason[:1] in ("=", "+", "-", "@", "\t", "\r") else reason
    return [safe if column == "reason" else values.get(column) for column in _COLUMNS]


async def quote_of(context: EdgeContext, fields: dict[str, Any]) -> QuoteView:
    """What this job would cost at most, and at which prices. Raises Refusal, as its submit would."""
    command = parse_command("job.submit", fields)
    assert isinstance(command, JobSubmit)
    service = await context.gateway.canonical(command.service)
    row = await context.reads.service(service)
    if row is None or row.retired:
        raise no_service(command.service)
    spec = ServiceSpec.model_validate(from_json(row.spec_json))
    fault = context.payload_schemas.check(RegisteredService(spec, row.version), command.payload)
    if fault is not None:
        raise fault
    wants = wanted(service, command.constraints, *spec.price())
    terms = terms_of(spec, command.payload, wants.constraints.max_price)
    at_most = terms.at_most(command.budget)
    report = await context.miners.report(service, wants.constraints, *spec.price())
    found: dict[str, int] = {}
    for profile in report.fitting:
        if miners := profile.found(service):
            price = asked_price(profile.capabilities, terms.unit) or terms.list_price
            found[price] = found.get(price, 0) + miners
    prices = [
        PriceView(unit_price=price, miners=miners, at_most=min(at_most, most(price, terms.max_units)))
        for price, miners in found.items()
    ]
    return QuoteView(
        service=service,
        unit=context.settings.money_unit,
        unit_type=UNIT_TYPES[terms.unit],
        max_units=terms.max_units if terms.bounded else None,
        list_price=terms.list_price,
        price_limit=terms.price_limit,
        at_most=at_most,
        miners=sorted(prices, key=lambda price: (price.at_most, price.unit_price)),
    )
