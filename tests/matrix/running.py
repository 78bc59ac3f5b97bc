"""The cases of a service, in full or a sample of them, run several at a time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from coordinator.miner.executors.audio.executor import AudioExecutor
from coordinator.miner.executors.base import Executor
from coordinator.miner.executors.ffmpeg.executor import FfmpegExecutor, find_ffmpeg
from coordinator.services import audio_processing, video_transcoding
from coordinator.services.base import KnownService
from tests.matrix import covering
from tests.matrix.cases import Case, Matrix, Verdict
from tests.matrix.inputs import SOUNDS, VIDEOS, Input, make
from tests.matrix.values import ABSENT, Kind, kinds_of

TIMEOUT_SECONDS: Final = 60.0
MOST_TOGETHER: Final = 4_000
"""The enumerated fields of a kind are combined in full up to so many combinations."""
INPUTS: Final = (*SOUNDS, *VIDEOS)
SERVICES: Final[dict[str, KnownService[Any, Any]]] = {
    service.id: service for service in (audio_processing.SERVICE, video_transcoding.SERVICE)
}
_INPUT: Final = "input"


def executor_of(service: str) -> Executor:
    """The real one, with a bound that a large picture can reach."""
    if service == audio_processing.SERVICE.id:
        return AudioExecutor(timeout_seconds=TIMEOUT_SECONDS)
    return FfmpegExecutor(timeout_seconds=TIMEOUT_SECONDS)


def cases_of(service: str, seed: int) -> list[Case]:
    """All combinations of the enumerated fields on a usual input, and all pairs of everything."""
    schema = SERVICES[service].payload.json_schema()
    made = [case for kind in kinds_of(schema) for case in _cases_of_kind(kind, seed)]
    return list({str(case): case for case in made}.values())


def _cases_of_kind(kind: Kind, seed: int) -> Iterator[Case]:
    closed = {name: values for name, values in kind.fields.items() if name in kind.enumerated}
    if covering.how_many(closed) <= MOST_TOGETHER:
        usual = next(one for one in INPUTS if one.sound and one.pictures)
        for values in covering.everything(closed):
            yield _case(kind, usual, values)
    for values in covering.pairs({_INPUT: _inputs_of(kind), **kind.fields}, seed):
        one = values.pop(_INPUT)
        yield _case(kind, one, values)


def _inputs_of(kind: Kind) -> list[Input]:
    """All of them; for a kind that makes pictures only a few of those that have none."""
    makes_pictures = "resolution" in kind.fields
    return [one for one in INPUTS if one.pictures or not makes_pictures or one in SOUNDS[:2]]


def _case(kind: Kind, one: Input, values: dict[str, Any]) -> Case:
    return Case(kind.name, one, {name: value for name, value in values.items() if value is not ABSENT})


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
    cases = cases_of(service, seed)
    if sample is not None:
        random.Random(seed).shuffle(cases)
        cases = cases[:sample]
    contents = {one.name: make(program, one, folder) for one in {case.input for case in cases}}
    matrix = Matrix(SERVICES[service], executor_of(service), contents, program, folder)
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
