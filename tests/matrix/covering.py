"""Few combinations in which every pair of values of two fields comes up. Pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

TRIES: Final = 12
"""Random combinations of which the one with the most new pairs is taken."""


def everything(fields: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations."""
    for values in itertools.product(*fields.values()):
        yield dict(zip(fields, values, strict=True))


def how_many(fields: Mapping[str, Sequence[Any]]) -> int:
    """The number of all combinations."""
    return math.prod(len(values) for values in fields.values())


def pairs(fields: Mapping[str, Sequence[Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Combinations with every pair of values at least once; the same ones for the same seed."""
    chance = random.Random(seed)
    names = list(fields)
    if len(names) == 1:
        yield from everything(fields)
        return
    left = {
        (one, i, other, j)
        for one, other in itertools.combinations(names, 2)
        for i in range(len(fields[one]))
        for j in range(len(fields[other]))
    }
    for wanted in sorted(left):
        if wanted not in left:
            continue
        best: tuple[int, dict[str, int]] = (-1, {})
        for _ in range(TRIES):
            picked = {name: chance.randrange(len(fields[name])) for name in names}
            picked[wanted[0]], picked[wanted[2]] = wanted[1], wanted[3]
            best = max(best, (len(left & _pairs_of(names, picked)), picked), key=lambda one: one[0])
        left -= _pairs_of(names, best[1])
        yield {name: fields[name][number] for name, number in best[1].items()}


def _pairs_of(names: Sequence[str], picked: Mapping[str, int]) -> set[tuple[str, int, str, int]]:
    return {(one, picked[one], other, picked[other]) for one, other in itertools.combinations(names, 2)}
