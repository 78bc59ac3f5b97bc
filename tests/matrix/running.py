"""The cases of a service, in full or a sample of them, run several at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.audio.executor import AudioExecutor
from coordinator.miner.executors.base import Executor
from coordinator.miner.executors.ffmpeg.abilities import Abilities
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor, find_ffmpeg
from coordinator.services import audio_processing, video_transcoding
from coordinator.services.base import KnownService
from tests.matrix import covering, drawing
from tests.matrix.cases import Case, Matrix, Verdict
from tests.matrix.inputs import SOUNDS, VIDEOS, make
from tests.matrix.values import Kind, kinds_of

TIMEOUT_SECONDS: Final = 60.0
MOST_TOGETHER: Final = 4_000
"""The enumerated fields of a kind are combined in full up to so many combinations."""
INPUTS: Final = (*SOUNDS, *VIDEOS)
SERVICES: Final[dict[str, KnownService[Any, Any]]] = {
    service.id: service for service in (audio_processing.SERVICE, video_transcoding.SERVICE)
}


def executor_of(service: str) -> Executor:
    """The real one, with a bound that a large picture can reach."""
    if service == audio_processing.SERVICE.id:
        return AudioExecutor(timeout_seconds=TIMEOUT_SECONDS)
    return FfmpegExecutor(timeout_seconds=TIMEOUT_SECONDS)


def cases_of(service: str, seed: int, abilities: Abilities | None = None) -> list[Case]:
    """All combinations of enumerated fields on a usual input, all pairs of everything, and rare values."""
    schema = SERVICES[service].payload.json_schema()
    made = [case for kind in kinds_of(schema) for case in _cases_of_kind(kind, seed, abilities)]
    return list({str(case): case for case in made}.values())


def _cases_of_kind(kind: Kind, seed: int, abilities: Abilities | None) -> Iterator[Case]:
    fields = drawing.drawn(kind, INPUTS, abilities)
    allowed = drawing.allowed_by(kind, abilities)
    usual = next(one for one in INPUTS if one.sound and one.pictures)
    closed = {name: values for name, values in fields.items() if name in kind.enumerated}
    if covering.how_many(closed) <= MOST_TOGETHER:
        for values in covering.everything(closed):
            if allowed({drawing.INPUT: usual, **values}):
                yield Case(kind.name, usual, drawing.resolved(usual, values))
    for values in covering.pairs(fields, seed, allowed):
        one = values[drawing.INPUT]
        yield Case(kind.name, one, drawing.resolved(one, values))
    for values in drawing.rare(kind, fields):
        yield Case(kind.name, usual, values)


async def run(
    service: str,
    folder: Path,
    *,
    jobs: int,
    seed: int,
    sample: int | None = None,
    told: Callable[[Verdict, int], None] = lambda verdict, left: None,
) -> list[Verdict]:
    """The verdicts on a service's cases, or on a sample of them; `told` gets each, and how many are left."""
    program = find_ffmpeg()
    assert program is not None, "there is no ffmpeg"
    executor = executor_of(service)
    assert await executor.check() is None
    abilities = executor.abilities if isinstance(executor, FfmpegExecutor) else None
    cases = cases_of(service, seed, abilities)
    if sample is not None:
        random.Random(seed).shuffle(cases)
        cases = cases[:sample]
    contents = {one.name: make(program, one, folder) for one in {case.input for case in cases}}
    matrix = Matrix(SERVICES[service], executor, contents, program, folder)
    cases = [case for case in cases if matrix.accepts(case)]
    free = asyncio.Semaphore(jobs)
    done: list[Verdict] = []

    async def one(case: Case) -> None:
        async with free:
            done.append(await matrix.run(case))
            told(done[-1], len(cases) - len(done))

    async with asyncio.TaskGroup() as group:
        for case in cases:
            group.create_task(one(case))
    order = {str(case): number for number, case in enumerate(cases)}
    return sorted(done, key=lambda verdict: order[str(verdict.case)])
