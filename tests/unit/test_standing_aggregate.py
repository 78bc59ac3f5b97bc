"""The rules of quarantine and release."""

from __future__ import annotations

from typing import Any

from coordinator.domain.errors import Code
from coordinator.domain.messages import SYSTEM, Principal
from coordinator.domain.standing import (
    StandingQuarantine,
    StandingQuarantined,
    StandingRelease,
    StandingReleased,
)
from tests.harness.deciding import ADMIN, SECOND, T0, given

WHO: dict[str, Any] = {"principal": "rig", "service": "whisper"}
QUARANTINE = StandingQuarantine(**WHO, reason="bad")
RELEASE = StandingRelease(**WHO, reason="good")


def quarantined(by: Principal = SYSTEM, at: int = T0, *, probes: bool = True) -> StandingQuarantined:
    return StandingQuarantined(at=at, by=by.name, **WHO, reason="bad", probes=probes)


def released(by: Principal = SYSTEM, at: int = T0 + SECOND) -> StandingReleased:
    return StandingReleased(at=at, by=by.name, **WHO, reason="good")


def test_a_quarantine_by_the_coordinator_has_probes_and_ends_with_a_release() -> None:
    """The principal gets a probe job now and then; a repeat of either command changes nothing."""
    decided = given().when(QUARANTINE, by=SYSTEM).then(quarantined())
    assert {**WHO, "quarantined": True} == decided.answer
    decided.again(by=SYSTEM).then()
    ended = given(quarantined()).when(RELEASE, by=SYSTEM).then(released())
    assert {**WHO, "quarantined": False} == ended.answer
    ended.again(by=SYSTEM).then()
    given().when(RELEASE, by=ADMIN).then()


def test_an_admins_quarantine_is_ended_by_an_admin_only() -> None:
    """It has no probes, replaces one with probes, and is not replaced by one."""
    by_hand = quarantined(ADMIN, probes=False)
    given().when(QUARANTINE, by=ADMIN).then(by_hand)
    later = quarantined(ADMIN, T0 + SECOND, probes=False)
    given(quarantined()).when(QUARANTINE, by=ADMIN).then(later)
    given(by_hand).when(QUARANTINE, by=SYSTEM).then()
    given(by_hand).when(RELEASE, by=SYSTEM).then(Code.CONFLICT_STATE)
    given(by_hand).when(RELEASE, by=ADMIN).then(released(ADMIN))
