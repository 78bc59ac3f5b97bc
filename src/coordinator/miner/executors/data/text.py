"""Text steps of the data child: cleaning texts, and finding near duplicates."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from typing import Any, Final

BINS: Final = 128
SHINGLE: Final = 5
"""Characters in a shingle, the unit of comparison."""
_EMPTY: Final = 2**64
_SKIPPED: Final = frozenset({"script", "style", "template"})


class _Text(HTMLParser):
    """The visible text of a piece of HTML."""

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


def clean(texts: Iterable[str | None], options: Mapping[str, Any]) -> list[str | None]:
    """The cleaned texts. `options`, in order: `strip_html`, `unicode`, `lower_case`, `collapse_spaces`."""
    return [None if text is None else _clean(text, options) for text in texts]


def _clean(text: str, options: Mapping[str, Any]) -> str:
    if options["strip_html"] and ("<" in text or "&" in text):
        parser = _Text()
        parser.feed(text)
        parser.close()
        text = "".join(parser.parts)
    text = unicodedata.normalize(options["unicode"], text)
    if options["lower_case"]:
        text = text.lower()
    return " ".join(text.split()) if options["collapse_spaces"] else text


def first_of_similar(texts: Iterable[str | None], similarity: float) -> list[bool]:
    """For each text, whether to keep it: no kept text before it is so similar. Missing texts are kept.

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
            bands = _bands(signature, similarity)
            near = {id(other): other for band in bands for other in buckets.get(band, ())}
            fresh = not any(_similarity(signature, other) >= similarity for other in near.values())
            if fresh:
                for band in bands:
                    buckets.setdefault(band, []).append(signature)
        kept.append(fresh)
    return kept


def _bands(signature: list[int], similarity: float) -> list[tuple[int, tuple[int, ...]]]:
    """The bands of a signature: texts that may be similar have at least one band in common.

    The lower the similarity, the narrower the bands; so one of 32 to 128 bands is almost surely equal.
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


def _similarity(one: list[int], other: list[int]) -> float:
    both = [(a, b) for a, b in zip(one, other, strict=True) if a != _EMPTY or b != _EMPTY]
    return sum(a == b for a, b in both) / len(both) if both else 1.0
