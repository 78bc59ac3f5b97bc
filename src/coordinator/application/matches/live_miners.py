"""The live miners by profile, from the tables that every process can read, and match reports against them.

The tables are read about once a second, however many ask, and each class is compared once per reading.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, cast

from coordinator.application.ports import Database
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.matching.job_report import MatchReport, ProfileMiners, Quarantine, match_report
from coordinator.domain.matching.needs import Capabilities, Constraints
from coordinator.domain.matching.reasons import why_unmatched
from coordinator.domain.matching.units import CountedUnit
from coordinator.domain.messages import principal_of
from coordinator.domain.standing import ALONE_SLOTS, NEWCOMER_SLOTS

STALE_AFTER_S: Final = 1.0
MAX_REPORTS: Final = 1000
"""Reports in memory, of one reading."""

_Class = tuple[str, Constraints, str | None, CountedUnit | None]


class LiveMiners:
    """Reads the live miners. Used on the event loop; the tables are read, and compared, in threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: list[ProfileMiners] = []
        self._parsed: dict[str, Capabilities] = {}
        """By profile, which is a hash of them: parsed once."""
        self._reports: dict[_Class, MatchReport] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def get(self, stale_after: float = STALE_AFTER_S) -> Sequence[ProfileMiners]:
        """The profiles with live miners, at most `stale_after` seconds old. Raises LogUnavailable."""
        async with self._reading:
            if time.monotonic() - self._read_at > stale_after:
                self._known = await asyncio.to_thread(self._read)
                self._reports = {}
                self._read_at = time.monotonic()
            return self._known

    async def report(
        self,
        service: str,
        wants: Constraints,
        list_price: str | None,
        unit: CountedUnit | None = None,
        stale_after: float = STALE_AFTER_S,
    ) -> MatchReport:
        """The match report of a class. `wants`: normalised. Raises LogUnavailable."""
        fleet = await self.get(stale_after)
        reports, asked = self._reports, (service, wants, list_price, unit)
        found = reports.get(asked)
        if found is None:
            found = await asyncio.to_thread(match_report, service, wants, list_price, fleet, unit)
            if len(reports) < MAX_REPORTS:
                reports[asked] = found
        return found

    async def refusal(
        self, service: str, wants: Constraints, list_price: str | None, unit: CountedUnit | None = None
    ) -> Refusal | None:
        """The refusal of a job that no live miner could run; None if one could. Raises LogUnavailable.

        A job is accepted by what was read a moment ago, and refused by a fresh reading only.
        """
        for stale_after in (STALE_AFTER_S, 0.0):
            report = await self.report(service, wants, list_price, unit, stale_after)
            if report.found:
                return None
        return Refusal(Code.NO_ELIGIBLE_MINER, why_unmatched(report))

    def _read(self) -> list[ProfileMiners]:
        with self._database.transaction() as tables:
            profiles = tables.query("match_profiles")
            running = tables.query("match_running")
            principals = sorted({principal_of(row["miner_id"]) for row in profiles})
            standings = tables.query("match_standings", principals=principals) if principals else []
        self._parsed = {
            row["profile"]: self._parsed.get(row["profile"])
            or Capabilities.model_validate_json(row["capabilities_json"])
            for row in profiles
        }
        return _profiles(profiles, running, standings, self._parsed)


def _profiles(
    profiles: Sequence[dict[str, Any]],
    running: Sequence[dict[str, Any]],
    standings: Sequence[dict[str, Any]],
    parsed: dict[str, Capabilities],
) -> list[ProfileMiners]:
    principal_by_profile = {row["profile"]: principal_of(row["miner_id"]) for row in profiles}
    busy: Counter[str] = Counter()
    used: Counter[tuple[str, str]] = Counter()
    for row in running:
        if row["state"] == "ONLINE":
            busy[row["profile"]] += row["attempts"]
        # A session may be newer than the reading of the profiles, within a transaction of several reads.
        if row["profile"] in principal_by_profile:
            used[principal_by_profile[row["profile"]], row["service"]] += row["attempts"]
    quarantines: dict[str, dict[str, Quarantine]] = {}
    slots: dict[tuple[str, str], int] = {}
    for row in standings:
        slots[row["principal"], row["service"]] = row["slots"]
        if row["quarantine"]:
            kind = cast("Quarantine", row["quarantine"])
            quarantines.setdefault(row["principal"], {})[row["service"]] = kind
    serving: dict[str, set[str]] = {}
    """By service: the principals with miners online, without those in quarantine."""
    for row in profiles:
        principal = principal_by_profile[row["profile"]]
        held = quarantines.get(principal, {})
        if row["state"] == "ONLINE" and "" not in held:
            for service in set(parsed[row["profile"]].services) - held.keys():
                serving.setdefault(service, set()).add(principal)

    def left(principal: str, service: str) -> int:
        """The slots of this service that the principal has earned and does not use."""
        earned = slots.get((principal, service), NEWCOMER_SLOTS)
        alone = serving.get(service, set()) <= {principal}
        return (max(earned, ALONE_SLOTS) if alone else earned) - used[principal, service]

    found = []
    rows = {(row["profile"], row["state"]): row for row in profiles}
    none = {"miners": 0, "slots": 0}
    for profile, principal in principal_by_profile.items():
        online = rows.get((profile, "ONLINE"), none)
        found.append(
            ProfileMiners(
                profile=profile,
                principal=principal,
                capabilities=parsed[profile],
                online=online["miners"],
                draining=rows.get((profile, "DRAINING"), none)["miners"],
                slots=online["slots"],
                busy=busy[profile],
                quarantines=quarantines.get(principal, {}),
                earned={service: left(principal, service) for service in parsed[profile].services},
            )
        )
    return found
