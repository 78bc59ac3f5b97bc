"""The unions of each noun are closed: all of its commands and events are in them, and nothing else."""

from __future__ import annotations

from typing import Any, get_args

from coordinator.domain import (
    account,
    alarm,
    content,
    job,
    key,
    miner,
    name,
    quota,
    service,
    settlement,
    signing_key,
    standing,
    webhook,
)
from coordinator.domain.decision import EVOLVE
from coordinator.domain.registry import COMMANDS, EVENTS
from tests.harness.cases import every

NOUNS: dict[str, tuple[Any, Any]] = {
    "alarm": (alarm.AlarmEvent, alarm.AlarmCommand),
    "account": (account.AccountEvent, account.AccountCommand),
    "payment": (account.PaymentEvent, None),
    "payments": (account.PaymentsSettled, None),
    "transfer": (account.TransferMade, None),
    "settlement": (settlement.SettlementEvent, settlement.SettlementCommand),
    "content": (content.ContentEvent, content.ContentCommand),
    "job": (job.JobEvent, job.JobCommand),
    "miner": (miner.MinerEvent, miner.MinerCommand),
    "service": (service.ServiceEvent, service.ServiceCommand),
    "name": (name.NameEvent, None),
    "key": (key.KeyEvent, key.KeyCommand),
    "quota": (quota.QuotaEvent, quota.QuotaCommand),
    "signing_key": (signing_key.SigningKeyEvent, signing_key.SigningKeyCommand),
    "standing": (standing.StandingEvent, standing.StandingCommand),
    "webhook": (webhook.WebhookEvent, webhook.WebhookCommand),
}


def members(union: Any) -> set[Any]:
    """The classes of a union; of one class, that one."""
    return set() if union is None else set(get_args(union) or (union,))


@every("noun", NOUNS)
def test_a_union_has_all_that_is_registered(noun: str) -> None:
    """A checker names the places that a new event needs only if the event is in its noun's union."""
    events, commands = NOUNS[noun]
    assert {event for event in EVENTS.values() if event.noun == noun} == members(events)
    assert {command for command in COMMANDS.values() if command.noun == noun} == members(commands)


def test_every_noun_is_looked_at_here() -> None:
    """A noun has events and an evolve; there are no others."""
    assert set(NOUNS) == {event.noun for event in EVENTS.values()} == set(EVOLVE)
