"""A sample of `make matrix`: what a schema accepts is done, and what is done is what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix import covering
from tests.matrix.running import run
from tests.matrix.values import ABSENT, kinds_of

SAMPLES = {"audio_processing": 30, "video_transcoding": 50}
"""Cases of each service; the full matrix has thousands."""
MOSTLY = {"audio_processing": 0.8, "video_transcoding": 0.85}
"""The part of them that runs through: others are for what an input, or this machine, lacks."""
SEED = 20


@pytest.mark.parametrize("service", SAMPLES)
async def test_nothing_that_is_accepted_fails(service: str, tmp_path: Path) -> None:
    """Values from all over a schema, on inputs of many kinds: done, or refused for what the input lacks."""
    verdicts = await run(service, tmp_path, jobs=2, seed=SEED, sample=SAMPLES[service])
    bad = [one for one in verdicts if one.outcome in ("failed", "too large")]
    assert [] == [(str(one.case), one.message) for one in bad]
    assert sum(one.outcome == "done" for one in verdicts) >= MOSTLY[service] * len(verdicts)


def test_values_follow_from_the_schema() -> None:
    """Enumerations are taken whole, ranges at their ends, patterns at their shortest and longest strings."""
    fields = {
        "input_url": {"type": "string"},
        "codec": {"enum": ["a", "b"]},
        "fps": {"type": "integer", "minimum": 1, "maximum": 120},
        "bitrate": {"type": "string", "pattern": "^[1-9]k$|^[1-9][0-9]{0,2}$", "default": "5k"},
        "tracks": {
            "anyOf": [{"const": "all"}, {"type": "array", "items": {"type": "boolean"}, "minItems": 1}]
        },
    }
    schema = {"title": "Film", "type": "object", "properties": fields, "required": ["input_url", "codec"]}
    [kind] = kinds_of({"if": {}, "then": {"$ref": "#/$defs/Film"}, "$defs": {"Film": schema}})
    assert {
        "codec": ["a", "b"],
        "fps": [ABSENT, 1, 60, 120],
        "bitrate": [ABSENT, "5k", "1k", "9k", "1", "999"],
        "tracks": [ABSENT, "all", [False], [True], [False, True]],
    } == kind.fields


def test_all_pairs_come_up() -> None:
    """Every two values of different fields are together in a combination; there are far fewer than all."""
    fields = {"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3], "d": [1, 2]}
    combinations = list(covering.pairs(fields, seed=1))
    for one in fields:
        for other in fields:
            seen = {(made[one], made[other]) for made in combinations}
            expected = {(x, y) for x in fields[one] for y in fields[other] if one != other or x == y}
            assert expected == seen
    assert 9 <= len(combinations) < covering.how_many(fields) / 2
    odd = list(covering.pairs(fields, seed=1, allowed=lambda made: made["a"] != made["b"]))
    assert all(made["a"] != made["b"] for made in odd)
    assert {(x, y) for x in (1, 2, 3) for y in (1, 2, 3) if x != y} == {
        (made["a"], made["b"]) for made in odd
    }
    assert combinations == list(covering.pairs(fields, seed=1))
