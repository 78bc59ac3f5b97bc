"""Few combinations in which every pair of values of two fields comes up. Pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

TRIES: Final = 12
"""Random combinations of which the one with the most new pairs is taken."""
MOST_DRAWN: Final = 400
"""A pair that comes up in none of so many combinations is one that nothing allows."""


def everything(fields: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations."""
    for values in itertools.product(*fields.values()):
        yield dict(zip(fields, values, strict=True))


def how_many(fields: Mapping[str, Sequence[Any]]) -> int:
    """The number of all combinations."""
    return math.prod(len(values) for values in fields.values())


def pairs(
    fields: Mapping[str, Sequence[Any]],
    seed: int,
    allowed: Callable[[Mapping[str, Any]], bool] = lambda combination: True,
) -> Iterator[dict[str, Any]]:
    """Allowed combinations with every pair of values at least once; the same ones for the same seed.

    A pair that no allowed combination has is left out.
    """
    chance = random.Random(seed)
    names = list(fields)
    if len(names) == 1:
        yield from filter(allowed, everything(fields))
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
        tried = 0
        for _ in range(MOST_DRAWN):
            picked = {name: chance.randrange(len(fields[name])) for name in names}
            picked[wanted[0]], picked[wanted[2]] = wanted[1], wanted[3]
            if not allowed({name: fields[name][number] for name, number in picked.items()}):
                continue
            best = max(best, (len(left & _pairs_of(names, picked)), picked), key=lambda one: one[0])
            tried += 1
            if tried == TRIES:
                break
        if best[1]:
            left -= _pairs_of(names, best[1])
            yield {name: fields[name][number] for name, number in best[1].items()}


def _pairs_of(names: Sequence[str], picked: Mapping[str, int]) -> set[tuple[str, int, str, int]]:
    return {(one, picked[one], other, picked[other]) for one, other in itertools.combinations(names, 2)}
