"""The rules of a registry entry, by example."""

from typing import Any

import pytest
from pydantic import ValidationError

from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import COMMANDS, SYSTEM, Role
from coordinator.domain.name import Free, Held, NameClaimed, NameReleased
from coordinator.domain.service import (
    CATEGORIES,
    RegisteredService,
    ServiceRegister,
    ServiceRegistered,
    ServiceRetire,
    ServiceRetired,
    ServiceRevise,
    ServiceRevised,
    ServiceSpec,
    service_stream,
)
from tests.harness.cases import every
from tests.harness.deciding import ADMIN, T0, a_spec, given

SPEC = a_spec()
BETTER = a_spec(description="Speech to text, and translation")
FAULT = Refusal(Code.INVALID_PAYLOAD, "input_schema: not a JSON Schema")


def registered(spec: ServiceSpec = SPEC, by: str = "root") -> ServiceRegistered:
    return ServiceRegistered(at=T0, by=by, spec=spec)


def revised(version: int = 2, spec: ServiceSpec = BETTER) -> ServiceRevised:
    return ServiceRevised(at=T0, by="root", spec=spec, version=version)


def retired() -> ServiceRetired:
    return ServiceRetired(at=T0, by="root", service="whisper")


REGISTER, REVISE, RETIRE = (
    ServiceRegister(spec=SPEC),
    ServiceRevise(spec=BETTER),
    ServiceRetire(service="whisper"),
)


# --- register ----------------------------------------------------------------------------------------------
def test_register_makes_version_one() -> None:
    """A new entry takes jobs at once."""
    decided = given().when(REGISTER, now=T0).then(registered())
    assert {"service": "whisper", "version": 1, "retired": False} == decided.answer
    assert decided.answer == decided.again().then().answer


def test_the_catalogue_may_be_seeded_by_the_system() -> None:
    """The coordinator registers its own catalogue at the first start, and finds it there at the next."""
    given().when(REGISTER, by=SYSTEM, now=T0).then(registered(by="coordinator"))
    given(registered()).when(REGISTER, by=SYSTEM).then()


def test_register_of_what_differs_is_refused() -> None:
    """An entry that is there, or was retired, is revised, not registered again."""
    decided = given(registered()).when(ServiceRegister(spec=BETTER)).then(Code.CONFLICT_STATE)
    assert "revise it instead" in decided.detail
    given(registered(), retired()).when(REGISTER).then(Code.CONFLICT_STATE)


# --- revise ------------------------------------------------------------------------------------------------
def test_revise_makes_the_next_version() -> None:
    """Every change is a version, so that each job can say which one it was accepted under."""
    decided = given(registered()).when(REVISE, now=T0).then(revised())
    assert {"service": "whisper", "version": 2, "retired": False} == decided.answer
    assert decided.answer == decided.again().then().answer
    given(registered(), revised()).when(ServiceRevise(spec=SPEC), now=T0).then(revised(3, SPEC))


def test_revise_with_what_is_there_changes_nothing() -> None:
    """No version without a difference."""
    given(registered()).when(ServiceRevise(spec=SPEC)).then()


def test_revise_brings_a_retired_entry_back() -> None:
    """Also where the entry is as it was: the revision is what makes it live."""
    decided = given(registered(), retired()).when(ServiceRevise(spec=SPEC), now=T0).then(revised(2, SPEC))
    assert RegisteredService(SPEC, version=2, by="root") == decided.state


# --- retire ------------------------------------------------------------------------------------------------
def test_retire_ends_new_jobs() -> None:
    """A retired entry stays known, with its version."""
    decided = given(registered()).when(RETIRE, now=T0).then(retired())
    assert {"service": "whisper", "version": 1, "retired": True} == decided.answer
    assert decided.answer == decided.again().then().answer


# --- faults and missing ------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", [REVISE, RETIRE], ids=["revise", "retire"])
def test_what_was_never_registered_is_not_found(command: Any) -> None:
    """Only register makes an entry."""
    decided = given().when(command).then(Code.SERVICE_NOT_FOUND)
    assert "no service whisper" == decided.detail


def test_a_faulty_schema_is_refused_as_the_check_said() -> None:
    """A spec whose schema is none becomes no version."""
    for decided in (
        given().when(REGISTER, fault=FAULT),
        given(registered()).when(REVISE, fault=FAULT),
    ):
        assert FAULT.detail == decided.then(Code.INVALID_PAYLOAD).detail


@pytest.mark.parametrize("topic", ["service.register", "service.revise", "service.retire"])
def test_only_operators_and_the_system_change_the_registry(topic: str) -> None:
    """No client's or miner's key reaches the registry."""
    assert not {Role.CLIENT, Role.MINER} & COMMANDS[topic].senders
    assert ADMIN.role in COMMANDS[topic].senders


# --- prices ------------------------------------------------------------------------------------------------
@every(
    ("unit", "amount", "per_unit"),
    [
        ("second", "0.002", "0.002"),
        ("hour", "3.6", "0.001000000"),
        ("hour", "1", "0.000277778"),
        ("hour", "0", "0.000000000"),
        ("hour", "999999999999.999999999", "277777777.777777778"),
        ("minute", "0.06", "0.001000000"),
        ("minute", "1", "0.016666667"),
        ("frame", "0.5", "0.5"),
        ("gb", "0.5", "0.5"),
        ("unit", "0.5", "0.5"),
    ],
)
def test_the_list_price_is_for_one_second_or_counted_unit(unit: str, amount: str, per_unit: str) -> None:
    """What is priced by time costs so much a second, as a decimal number that an event can hold."""
    assert per_unit == a_spec(pricing={"unit": unit, "amount": amount}).list_price()


# --- shapes ------------------------------------------------------------------------------------------------
@every(
    "changes",
    [
        {"id": "Whisper"},
        {"id": "_whisper"},
        {"id": "a.b"},
        {"name": ""},
        {"category": "other"},
        {"description": "d" * 2001},
        {"timeout_seconds": 59},
        {"timeout_seconds": 604_801},
        {"max_concurrent": 0},
        {"pricing": {"unit": "day", "amount": "1"}},
        {"pricing": {"unit": "hour", "amount": "1e3"}},
        {"pricing": {"unit": "hour", "amount": 1}},
        {"input_schema": []},
        {"aliases": ["No"]},
    ],
)
def test_a_spec_outside_the_bounds_is_no_spec(changes: Any) -> None:
    """What the registry can't keep its word on is not taken."""
    with pytest.raises(ValidationError):
        a_spec(**changes)


def test_the_categories_are_the_six_of_the_catalogue() -> None:
    """The list that dashboards show and the type that commands are checked against say the same."""
    assert CATEGORIES == ServiceSpec.model_fields["category"].annotation.__args__  # type: ignore[union-attr]


def test_each_entry_has_a_stream_of_its_own() -> None:
    """Ids of services, miners and jobs never meet."""
    assert service_stream("whisper") != service_stream("ffmpeg")


def test_an_event_that_does_not_fit_the_state_names_both() -> None:
    """A log that no decision could have written is an error, not a state."""
    with pytest.raises(ValueError, match=r"service\.retired\.v1 can't follow NoneType"):
        given(retired())


# --- names -------------------------------------------------------------------------------------------------
NAMED = a_spec(aliases=("speech", "asr"))


def claimed(name: str, service: str = "whisper", by: str = "root") -> NameClaimed:
    return NameClaimed(at=T0, by=by, name=name, service=service)


def test_an_entry_takes_its_names() -> None:
    """Its id and its aliases, in the decision that registers it; a repeat takes nothing twice."""
    free = {"whisper": None, "speech": Free("speech"), "asr": None}
    register = ServiceRegister(spec=NAMED)
    given().when(register, now=T0, names=free).then(
        claimed("whisper"), claimed("speech"), claimed("asr"), registered(NAMED)
    )
    given(registered(NAMED)).when(register, now=T0).then()
    # One that is older than names takes them when it is registered again.
    given(registered(NAMED)).when(register, now=T0, names=free).then(
        claimed("whisper"), claimed("speech"), claimed("asr")
    )


@pytest.mark.parametrize("taken", ["whisper", "speech"])
def test_a_name_is_one_entrys(taken: str) -> None:
    """An id may be nobody's alias, and an alias nobody's id or alias."""
    names = {"whisper": None, "speech": None, "asr": None} | {taken: Held(taken, "other")}
    decided = given().when(ServiceRegister(spec=NAMED), names=names).then(Code.CONFLICT_STATE)
    assert f"the name {taken} belongs to other" in decided.detail
    entry = registered(a_spec())
    given(entry).when(ServiceRevise(spec=NAMED), names=names).then(Code.CONFLICT_STATE)


def test_a_revision_gives_up_names() -> None:
    """What is no alias any more is free for others, and what is one now is taken."""
    held = {name: Held(name, "whisper") for name in ("whisper", "speech", "asr")}
    new = a_spec(aliases=("asr", "stt"))
    given(registered(NAMED)).when(ServiceRevise(spec=new), now=T0, names={**held, "stt": None}).then(
        claimed("stt"), NameReleased(at=T0, by="root", name="speech", service="whisper"), revised(2, new)
    )


def test_a_revision_that_does_not_know_all_names_is_sent_again() -> None:
    """Somebody gave the entry another alias meanwhile: which name that is, was not looked up."""
    held = {name: Held(name, "whisper") for name in ("whisper", "speech")}
    given(registered(NAMED)).when(ServiceRevise(spec=a_spec(aliases=("speech",))), names=held).then(
        Code.UNAVAILABLE
    )


def test_a_newer_catalogue_revises_what_is_its_own() -> None:
    """At a start, an entry that only we have touched is brought up to date; an admin's is left alone."""
    ours = registered(by="coordinator")
    register = ServiceRegister(spec=BETTER)
    newer = ServiceRevised(at=T0, by="coordinator", spec=BETTER, version=2)
    given(ours).when(register, by=SYSTEM, now=T0).then(newer)
    given(ours, revised()).when(REGISTER, by=SYSTEM).then(Code.CONFLICT_STATE)
    given(ours, retired()).when(register, by=SYSTEM).then(Code.CONFLICT_STATE)
