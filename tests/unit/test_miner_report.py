"""Why a miner has no work: what the report counts, and that each improvement brings the jobs it promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.domain.matching.gpus import Gpu
from coordinator.domain.matching.miner_report import (
    Improvement,
    MinerFacts,
    QueuedClass,
    improvement_text,
    miner_report,
    reasons_to_idle,
)
from coordinator.domain.matching.needs import Capabilities, Needs, satisfies
from coordinator.domain.matching.reasons import ReasonCode
from tests.harness.cases import every
from tests.harness.length import examples

SERVICE = "checksum"
CARD = "NVIDIA L4"
MODELS = ("a", "b", "c")

some_classes = st.lists(
    st.builds(
        QueuedClass,
        st.sampled_from((SERVICE, SERVICE, "whisper")),
        st.builds(
            Needs,
            min_vram_gb=st.sampled_from((None, 8, 24, 48)),
            cuda=st.sampled_from((None, "12.4", "12.10")),
            models=st.sets(st.sampled_from(MODELS)).map(lambda models: tuple(sorted(models))),
            region=st.sampled_from((None, "eu", "us")),
            max_price=st.sampled_from((None, "0.1", "0.5")),
            list_price=st.sampled_from((None, "0.2")),
        ),
        st.integers(1, 5),
    ),
    max_size=10,
)
some_capabilities = st.builds(
    Capabilities,
    services=st.just((SERVICE,)),
    gpus=st.sampled_from(((), (Gpu(name=CARD, memory_mb=10_000),))),
    cuda=st.sampled_from((None, "11.8", "12.4")),
    models=st.sets(st.sampled_from(MODELS)).map(lambda models: tuple(sorted(models))),
    region=st.sampled_from((None, "eu")),
    price=st.sampled_from((None, "0.3", "1")),
)


def fitting(has: Capabilities, classes: list[QueuedClass]) -> int:
    return sum(c.queued for c in classes if satisfies(c.service, c.needs, has, c.needs.list_price))


def improved(has: Capabilities, improvement: Improvement) -> Capabilities:
    """The capabilities after the change."""
    to: Any = improvement.to
    changed: dict[str, Callable[[], dict[str, Any]]] = {
        "min_vram_gb": lambda: {"gpus": (*has.gpus, Gpu(name=CARD, memory_mb=to * 1000))},
        "cuda": lambda: {"cuda": to},
        "models": lambda: {"models": (*has.models, *to)},
        "region": lambda: {"region": to},
        "max_price": lambda: {"price": to},
        "service": lambda: {"services": (*has.services, to)},
    }
    return has.model_copy(update=changed[improvement.constraint]())


@settings(max_examples=examples(400), deadline=None)
@given(some_capabilities, some_classes)
def test_each_improvement_brings_the_jobs_that_it_promises(
    has: Capabilities, classes: list[QueuedClass]
) -> None:
    """With the change the miner can run so many jobs more; another region may cost it those of its own."""
    report = miner_report(has, classes)
    assert report.fitting == fitting(has, classes)
    for improvement in report.improvements:
        after = improved(has, improvement)
        gained = sum(
            c.queued
            for c in classes
            if satisfies(c.service, c.needs, after, c.needs.list_price)
            and not satisfies(c.service, c.needs, has, c.needs.list_price)
        )
        assert improvement.jobs == gained > 0, improvement


def test_memory_is_the_least_that_brings_a_job() -> None:
    """Jobs of 24 and of 48 GB wait: the smallest improvement is 24 GB, for those of 24 GB alone."""
    has = Capabilities(services=(SERVICE,), gpus=(Gpu(name=CARD, memory_mb=10_000),))
    classes = [QueuedClass(SERVICE, Needs(min_vram_gb=gb), gb) for gb in (48, 24)]
    report = miner_report(has, classes)
    assert [Improvement("min_vram_gb", 24, 24)] == list(report.improvements)
    assert (("min_vram_gb", 72),) == report.failures


IDLE: dict[str, Any] = {"state": "ONLINE", "concurrency": 1, "running": 0}


@every(
    ("facts", "classes", "code", "sentence"),
    [
        ({"state": "OFFLINE"}, [], ReasonCode.OFFLINE, "Gets no jobs: its session is over"),
        ({"state": "DRAINING"}, [], ReasonCode.DRAINING, "Gets no jobs: it drains"),
        ({"running": 1}, [], ReasonCode.ALL_BUSY, "Gets no more jobs: its only slot is busy."),
        ({"quarantine": "by hand"}, [], ReasonCode.QUARANTINED, "Gets no jobs: its key's miners"),
        ({}, [], ReasonCode.NOTHING_QUEUED, "Gets no jobs: no job is queued."),
        (
            {},
            [QueuedClass("whisper", Needs(), 3)],
            ReasonCode.NOTHING_QUEUED,
            "Gets no jobs: no job of its services is queued.",
        ),
        (
            {},
            [QueuedClass(SERVICE, Needs(cuda="12.4"), 2)],
            ReasonCode.CONSTRAINT_UNMET,
            (
                "Gets no jobs: none of the 2 queued jobs of its services fits it; "
                "2 more jobs would fit with CUDA 12.4."
            ),
        ),
        (
            {"may_take": False},
            [QueuedClass(SERVICE, Needs(), 2)],
            ReasonCode.SLOTS_NOT_EARNED,
            "Gets no jobs: its key's miners use all slots",
        ),
        (
            {"quarantine": "probes"},
            [QueuedClass(SERVICE, Needs(), 2)],
            ReasonCode.QUARANTINED,
            "Gets no jobs: its key's miners are in quarantine: one probe",
        ),
        ({}, [QueuedClass(SERVICE, Needs(), 2)], ReasonCode.OFFER_DUE, "Gets no jobs: 2 queued jobs fit it"),
    ],
)
def test_the_decisive_reason_comes_first(
    facts: dict[str, Any], classes: list[QueuedClass], code: ReasonCode, sentence: str
) -> None:
    """The sentence and the first reason say what keeps the miner without work."""
    report = miner_report(Capabilities(services=(SERVICE,)), classes)
    told, reasons = reasons_to_idle(report, MinerFacts(**{**IDLE, **facts}))
    assert code == reasons[0].code
    assert told.startswith(sentence)


def test_words_of_other_peoples_jobs_are_left_out() -> None:
    """Without names an improvement says how many jobs, and no model, region or service of theirs."""
    for constraint, to in (("models", ("secret",)), ("region", "secret"), ("service", "secret")):
        improvement = Improvement(constraint, to, 2)  # type: ignore[arg-type]
        assert "secret" in improvement_text(improvement)
        assert "secret" not in improvement_text(improvement, names=False)
    has = Capabilities(services=(SERVICE,))
    report = miner_report(has, [QueuedClass(SERVICE, Needs(models=("secret",)), 2)])
    told, reasons = reasons_to_idle(report, MinerFacts(**IDLE))
    assert "secret" not in told + "".join(reason.text for reason in reasons)
