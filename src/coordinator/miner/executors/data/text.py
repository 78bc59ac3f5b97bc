"""What the data child does to texts: cleaning, and finding those that are nearly the same."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from typing import Any, Final

BINS: Final = 128
SHINGLE: Final = 5
"""Characters that are looked at together."""
_EMPTY: Final = 2**64
_SKIPPED: Final = frozenset({"script", "style", "template"})


class _Text(HTMLParser):
    """The text of a piece of HTML, without what is no text to a reader."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._within = 0

    def handle_starttag(self, tag: str, _: Any) -> None:
        self._within += tag in _SKIPPED
        self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        self._within = max(0, self._within - (tag in _SKIPPED))
        self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.parts.append(data)


def clean(texts: Iterable[str | None], how: Mapping[str, Any]) -> list[str | None]:
    """Each text as `how` says: `strip_html`, `unicode`, `lower_case`, `collapse_spaces`, in this order."""
    return [None if text is None else _clean(text, how) for text in texts]


def _clean(text: str, how: Mapping[str, Any]) -> str:
    if how["strip_html"] and ("<" in text or "&" in text):
        parser = _Text()
        parser.feed(text)
        parser.close()
        text = "".join(parser.parts)
    text = unicodedata.normalize(how["unicode"], text)
    if how["lower_case"]:
        text = text.lower()
    return " ".join(text.split()) if how["collapse_spaces"] else text


def first_of_similar(texts: Iterable[str | None], similarity: float) -> list[bool]:
    """For each text whether no earlier one is kept that is as similar; a missing one is always kept.

    Similarity is the share of equal bins of one-permutation MinHash signatures over shingles, which
    estimates Jaccard's index (Li, Owen, Zhang 2012). At 1 only equal texts count.
    """
    kept: list[bool] = []
    known: set[str] = set()
    buckets: dict[tuple[int, tuple[int, ...]], list[list[int]]] = {}
    for text in texts:
        if text is None:
            kept.append(True)
            continue
        fresh = text not in known
        known.add(text)
        if fresh and similarity < 1:
            signature = _signature(text)
            places = _places(signature, similarity)
            near = {id(other): other for place in places for other in buckets.get(place, ())}
            fresh = not any(_alike(signature, other) >= similarity for other in near.values())
            if fresh:
                for place in places:
                    buckets.setdefault(place, []).append(signature)
        kept.append(fresh)
    return kept


def _places(signature: list[int], similarity: float) -> list[tuple[int, tuple[int, ...]]]:
    """Where to look for texts that may be similar: in those with some band of bins in common.

    The less similar they need to be, the narrower the bands; so one of 32 to 128 is almost surely equal.
    """
    width = 1 if similarity < 0.5 else 2 if similarity < 0.75 else 4
    bands = ((start, tuple(signature[start : start + width])) for start in range(0, BINS, width))
    return [(start, band) for start, band in bands if any(value != _EMPTY for value in band)]


def _signature(text: str) -> list[int]:
    text = re.sub(r"\s+", " ", text.lower()).strip()
    bins = [_EMPTY] * BINS
    for start in range(max(1, len(text) - SHINGLE + 1)):
        shingle = text[start : start + SHINGLE].encode("utf-8", "replace")
        value = int.from_bytes(hashlib.blake2b(shingle, digest_size=8).digest(), "big")
        bins[value % BINS] = min(bins[value % BINS], value)
    return bins


def _alike(one: list[int], other: list[int]) -> float:
    both = [(a, b) for a, b in zip(one, other, strict=True) if a != _EMPTY or b != _EMPTY]
    return sum(a == b for a, b in both) / len(both) if both else 1.0
