"""Match reports: what they count, and that each proposed change does what it says and is the smallest."""

from __future__ import annotations

from decimal import Decimal
from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.domain.matching.gpus import Gpu
from coordinator.domain.matching.job_report import (
    MatchReport,
    ProfileMiners,
    Relaxation,
    match_report,
    nominal_gb,
)
from coordinator.domain.matching.needs import (
    Capabilities,
    Constraints,
    has_memory,
    normalise_constraints,
    satisfies,
)
from coordinator.domain.matching.reasons import (
    Offered,
    QueuedFacts,
    ReasonCode,
    reasons_to_wait,
    text_of,
    why_unmatched,
)
from tests.harness.cases import every
from tests.harness.length import examples

SERVICE = "checksum"
CARDS = ("NVIDIA GeForce RTX 4090", "NVIDIA L4", "AMD Radeon RX 7900 XTX", "Orin")
MEMORY = (500, 8_192, 16_376, 24_564)
MODELS = ("llama-7b", "Llama-70b", "whisper-large")
PRICES = ("0.01", "0.50", "0.5", "2")


def miners(number: int = 1, **more: Any) -> ProfileMiners:
    """A profile of so many miners online, with these capabilities and these fields."""
    fields = ProfileMiners.__dataclass_fields__
    own = {name: more.pop(name) for name in list(more) if name in fields}
    capabilities = Capabilities(**{"services": (SERVICE,)} | more)
    given_: dict[str, Any] = {
        "profile": f"{hash(capabilities)}",
        "principal": "rig",
        "capabilities": capabilities,
        "online": number,
        "slots": number,
        **own,
    }
    return ProfileMiners(**given_)


def card(gb: int, name: str = CARDS[0]) -> tuple[Gpu, ...]:
    return (Gpu(name=name, memory_mb=gb * 1000),)


def report_on(fleet: list[ProfileMiners], list_price: str | None = None, **wants: Any) -> MatchReport:
    return match_report(SERVICE, normalise_constraints(Constraints(**wants)), list_price, fleet)


a_fleet = st.lists(
    st.builds(
        lambda service, gpus, cuda, models, region, price, online, barred: miners(
            online,
            services=(service,),
            gpus=tuple(gpus),
            cuda=cuda,
            models=tuple(models),
            region=region,
            price=price,
            quarantines={SERVICE: "by hand"} if barred else {},
        ),
        st.sampled_from((SERVICE, SERVICE, SERVICE, "whisper")),
        st.lists(st.builds(Gpu, name=st.sampled_from(CARDS), memory_mb=st.sampled_from(MEMORY)), max_size=2),
        st.sampled_from((None, "11.8", "12.4", "12.10")),
        st.sets(st.sampled_from(MODELS)),
        st.sampled_from((None, "eu", "US")),
        st.sampled_from((None, *PRICES)),
        st.integers(0, 4),
        st.sampled_from((False, False, False, True)),
    ),
    max_size=8,
)
some_needs = st.builds(
    Constraints,
    gpu=st.sampled_from((None, "any", "nvidia", "amd", "rtx-4090", "a100")),
    cuda=st.sampled_from((None, None, "12.0", "13")),
    min_vram_gb=st.sampled_from((None, 1, 17, 24, 80)),
    models=st.lists(st.sampled_from((*MODELS, "unheard-of")), max_size=3, unique=True).map(tuple),
    region=st.sampled_from((None, None, "EU", "asia")),
    max_price=st.sampled_from((None, "0.001", "0.5")),
).map(normalise_constraints)
a_list_price = st.sampled_from((None, "0.02", "1"))


def find(fleet: list[ProfileMiners], wants: Constraints, list_price: str | None) -> int:
    """The miners online that satisfy these, without those that an admin barred: by `satisfies` alone."""
    return sum(
        profile.online
        for profile in fleet
        if satisfies(SERVICE, wants, profile.capabilities, list_price) and not profile.quarantines
    )


def smaller(relaxation: Relaxation, wants: Constraints, list_price: str | None) -> list[Constraints]:
    """Smaller changes of the same constraint than this one."""

    def changed(**to: Any) -> Constraints:
        return wants.model_copy(update=to)

    to = relaxation.to
    match relaxation.constraint:
        case "min_vram_gb":
            assert wants.min_vram_gb is not None
            return [changed(min_vram_gb=gb) for gb in range((to or 0) + 1, wants.min_vram_gb)]  # type: ignore[operator]
        case "gpu":
            wider = ["nvidia", "any", None] if wants.gpu in ("rtx-4090", "a100") else ["any", None]
            return [changed(gpu=gpu) for gpu in wider[: wider.index(to)]]  # type: ignore[arg-type]
        case "cuda":
            versions = ["13", "12.10", "12.4", "11.8", None]
            return [changed(cuda=version) for version in versions[: versions.index(to)]]  # type: ignore[arg-type]
        case "models":
            kept = set(wants.models) & set(to)  # type: ignore[arg-type]
            sizes = range(len(kept) + 1, len(wants.models))
            return [changed(models=m) for size in sizes for m in combinations(wants.models, size)]
        case "max_price":
            limit = Decimal(str(relaxation.asked))
            between = sorted({Decimal(p) for p in (*PRICES, "0.02", "1")})
            return [changed(max_price=str(p)) for p in between if limit < p < Decimal(str(to))]
        case _:
            return []


@settings(max_examples=examples(400), deadline=None)
@given(a_fleet, some_needs, a_list_price)
def test_each_relaxation_finds_as_many_as_it_says_and_none_smaller_does(
    fleet: list[ProfileMiners], wants: Constraints, list_price: str | None
) -> None:
    """Applied, a relaxation finds the miners that it promises; a smaller change finds none."""
    report = match_report(SERVICE, wants, list_price, fleet)
    assert report.found == find(fleet, wants, list_price)
    if report.found:
        assert not report.relaxations
    for relaxation in report.relaxations:
        name, relaxed = relaxation.constraint, relaxation.wants
        others = Constraints.model_fields.keys() - {name}
        assert all(getattr(relaxed, field) == getattr(wants, field) for field in others)
        assert getattr(relaxed, name) == relaxation.to != getattr(wants, name)
        assert relaxation.miners == find(fleet, relaxed, list_price) > 0
        for between in smaller(relaxation, wants, list_price):
            assert find(fleet, between, list_price) == 0, (relaxation, between)
        assert text_of(relaxation).endswith(".")
    assert why_unmatched(report)


@settings(max_examples=examples(300), deadline=None)
@given(a_fleet, some_needs, a_list_price)
def test_a_constraint_whose_loss_helps_has_a_relaxation(
    fleet: list[ProfileMiners], wants: Constraints, list_price: str | None
) -> None:
    """If a job without one of its constraints would find a miner, the report proposes to change that one."""
    report = match_report(SERVICE, wants, list_price, fleet)
    proposed = {relaxation.constraint for relaxation in report.relaxations}
    for name in ("gpu", "cuda", "min_vram_gb", "models", "region"):
        without = wants.model_copy(update={name: () if name == "models" else None})
        if not report.found and find(fleet, without, list_price):
            assert name in proposed
    at_any_price = wants.model_copy(update={"max_price": "1000"})
    if not report.found and find(fleet, at_any_price, list_price):
        assert "max_price" in proposed


@settings(deadline=None)
@given(st.integers(1, 200_000))
def test_nominal_memory_is_the_highest_limit_that_a_card_satisfies(memory_mb: int) -> None:
    """One GB more than the nominal memory is more than the card has."""
    gb = nominal_gb(memory_mb)
    assert gb == 0 or has_memory(memory_mb, gb)
    assert not has_memory(memory_mb, gb + 1)


def test_failures_count_miners_and_those_that_fail_nothing_else() -> None:
    """A miner of another service fails the service only; of the others each failing constraint counts."""
    fleet = [
        miners(3, gpus=card(8), region="eu"),
        miners(2, gpus=card(24), region="us"),
        miners(4, gpus=card(8), region="us"),
        miners(5, services=("whisper",)),
    ]
    report = report_on(fleet, min_vram_gb=20, region="eu")
    assert [("min_vram_gb", 7, 3), ("region", 6, 2), ("service", 5, 5)] == sorted(
        (f.constraint, f.miners, f.alone) for f in report.failures
    )
    assert (14, 9, 0) == (report.online, report.running_service, report.found)


MEMORY_SENTENCE = "no miner has 24 GB for it; 12 would with 17 GB"


@every(
    ("fleet", "wants", "sentence"),
    [
        ([], {}, "no miner is online"),
        (
            [miners(2, services=("whisper",))],
            {},
            "none of the 2 miners online runs the service checksum",
        ),
        (
            [miners(12, gpus=(Gpu(name=CARDS[0], memory_mb=16_376),)), miners(3, gpus=card(8))],
            {"min_vram_gb": 24},
            MEMORY_SENTENCE,
        ),
        (
            [miners(1, models=("small",))],
            {"models": ["large"]},
            "no miner has the model large for it; 1 would with the model small",
        ),
        (
            [miners(1, price="0.2"), miners(1, price="0.10")],
            {"max_price": "0.05"},
            "no miner takes 0.05 a unit for it; 1 would for 0.10 a unit",
        ),
        ([miners(2, region="us")], {"region": "eu"}, "no miner is in region eu for it; 2 would in region us"),
        ([miners(2)], {"gpu": "any"}, "no miner has a GPU for it; 2 would without a GPU"),
        (
            [miners(2, gpus=card(24, "NVIDIA L4"))],
            {"gpu": "rtx-4090"},
            "no miner has a GPU rtx-4090 for it; 2 would with any GPU of nvidia",
        ),
        ([miners(1, cuda="11.8")], {"cuda": "12"}, "no miner has CUDA 12 for it; 1 would with CUDA 11.8"),
        (
            [miners(2, region="us", cuda="11")],
            {"region": "eu", "cuda": "12"},
            (
                "no miner has all that it needs: 2 of 2 have no CUDA 12 or newer, "
                "2 of 2 are not in region eu; no single change would find one"
            ),
        ),
        (
            [miners(0, draining=2), miners(1, quarantines={"": "by hand"})],
            {},
            "every miner that fits is set apart: 1 in quarantine, 2 draining",
        ),
    ],
)
def test_the_sentence_names_the_fault_and_the_help(
    fleet: list[ProfileMiners], wants: dict[str, Any], sentence: str
) -> None:
    """The sentence says what no miner has, and how many would run the job after the smallest change."""
    assert why_unmatched(report_on(fleet, **wants)) == sentence


@every(
    ("fleet", "facts", "code"),
    [
        ([miners(2, busy=2)], {}, ReasonCode.ALL_BUSY),
        ([miners(2, busy=1)], {}, ReasonCode.OFFER_DUE),
        ([miners(2, busy=1, earned={SERVICE: 0})], {}, ReasonCode.SLOTS_NOT_EARNED),
        ([miners(2)], {"tried": frozenset({"rig"})}, ReasonCode.AVOIDED),
        ([miners(2)], {"tried": frozenset({"other"})}, ReasonCode.OFFER_DUE),
        ([miners(2)], {"offered": Offered(profile="p", seconds=3)}, ReasonCode.OFFERED),
        ([miners(2)], {"payload_erased": True}, ReasonCode.PAYLOAD_ERASED),
        ([], {}, ReasonCode.NO_MINER),
        ([miners(1, services=("whisper",))], {}, ReasonCode.SERVICE_NOT_RUN),
        ([miners(1, quarantines={SERVICE: "by hand"})], {}, ReasonCode.QUARANTINED),
        ([miners(0, draining=1)], {}, ReasonCode.DRAINING),
        ([miners(1, quarantines={SERVICE: "probes"})], {}, ReasonCode.OFFER_DUE),
    ],
)
def test_the_decisive_reason_comes_first(
    fleet: list[ProfileMiners], facts: dict[str, Any], code: ReasonCode
) -> None:
    """The first reason is what holds the job up; the last one says when it expires."""
    sentence, reasons = reasons_to_wait(report_on(fleet), QueuedFacts(expires_in=900, **facts))
    assert (code, ReasonCode.EXPIRES) == (reasons[0].code, reasons[-1].code)
    assert sentence == f"Waits: {reasons[0].text}."
    assert reasons[-1].text == "it expires in 15 minutes"


def test_busy_slots_and_the_place_are_counted() -> None:
    """All busy says how many slots of how many; the client's own jobs before this one have a reason."""
    fleet = [miners(2, slots=4, busy=4), miners(1, busy=2, gpus=card(8))]
    _, reasons = reasons_to_wait(report_on(fleet), QueuedFacts(expires_in=1, own_before=3))
    assert {"miners": 3, "slots": 5, "busy_slots": 5} == reasons[0].counts
    assert {"own_jobs_before": 3} in [reason.counts for reason in reasons]


def test_models_there_are_come_with_their_numbers() -> None:
    """A job whose model nobody has says which models the miners of its service have, most frequent first."""
    fleet = [
        miners(1, models=("A", "b")),
        miners(2, models=("a",)),
        miners(9, services=("w",), models=("c",)),
    ]
    report = report_on(fleet, models=["z"])
    assert (("a", 3), ("b", 1)) == report.models
    assert [(("a",), 3), (("b",), 1), ((), 3)] == [(r.to, r.miners) for r in report.relaxations]
