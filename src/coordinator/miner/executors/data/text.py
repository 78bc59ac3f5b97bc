"""Text steps of the data child: cleaning texts, and finding near duplicates."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

from coordinator.miner.executors.data.markup import visible_text

BINS: Final = 128
SHINGLE: Final = 5
"""Characters in a shingle, the unit of comparison."""
_EMPTY: Final = 2**64
MAX_MARKS: Final = 30
"""Combining marks in a row, as in Unicode's stream-safe text (UAX 15): more take quadratic time to sort."""
MAX_IN_BUCKET: Final = 64
MAX_COMPARED: Final = 64
"""Texts with which one text is compared: those that have most in common with it."""
_GRAPHEME_JOINER: Final = "\u034f"


def clean(texts: Iterable[str | None], options: Mapping[str, Any]) -> list[str | None]:
    """The cleaned texts. `options`, in order: `strip_html`, `unicode`, `lower_case`, `collapse_spaces`."""
    return [None if text is None else _clean(text, options) for text in texts]


def _clean(text: str, options: Mapping[str, Any]) -> str:
    if options["strip_html"] and ("<" in text or "&" in text):
        text = visible_text(text)
    if not text.isascii():
        text = unicodedata.normalize(options["unicode"], _stream_safe(text))
    if options["lower_case"]:
        text = text.lower()
    return " ".join(text.split()) if options["collapse_spaces"] else text


def _stream_safe(text: str) -> str:
    """The text with a joiner after every MAX_MARKS combining marks in a row; other text is unchanged."""
    return _long_marks().sub(rf"\g<0>{_GRAPHEME_JOINER}", text)


@cache
def _long_marks() -> re.Pattern[str]:
    marks = "".join(
        re.escape(chr(code))
        for code in range(sys.maxunicode + 1)
        if unicodedata.combining(unicodedata.normalize("NFKD", chr(code))[0])
    )
    return re.compile(f"[{marks}]{{{MAX_MARKS}}}(?=[{marks}])")


def first_of_similar(texts: Iterable[str | None], similarity: float) -> list[bool]:
    """For each text, whether to keep it: no kept text before it is so similar. Missing texts are kept.

    Similarity is the share of equal bins of one-permutation MinHash signatures over shingles, which
    estimates Jaccard's index (Li, Owen, Zhang 2012). At 1 only equal texts count. Each text is compared with
    a bounded number of others, so that texts with a common part do not take quadratic time.
    """
    kept: list[bool] = []
    known: set[str] = set()
    signatures: list[list[int]] = []
    buckets: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for text in texts:
        if text is None:
            kept.append(True)
            continue
        fresh = text not in known
        known.add(text)
        if fresh and similarity < 1:
            signature = _signature(text)
            bands = _bands(signature, similarity)
            near = Counter(number for band in bands for number in buckets.get(band, ()))
            nearest = (signatures[number] for number, _ in near.most_common(MAX_COMPARED))
            fresh = not any(_similarity(signature, other) >= similarity for other in nearest)
            if fresh:
                for band in bands:
                    bucket = buckets.setdefault(band, [])
                    if len(bucket) < MAX_IN_BUCKET:
                        bucket.append(len(signatures))
                signatures.append(signature)
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
