"""Cleaning of texts: what stays of them, and that no text takes more time than its length."""

from __future__ import annotations

import time
import unicodedata
from typing import Any, Literal

import pytest

from coordinator.miner.executors.data import text as cleaning
from coordinator.miner.executors.data.text import MAX_COMPARED, clean, first_of_similar
from tests.harness.cases import every

SECONDS = 5.0
"""Far more than linear time takes here, and far less than quadratic time."""


def cleaned(text: str, **options: Any) -> str:
    plain = {"strip_html": True, "unicode": "NFC", "lower_case": False, "collapse_spaces": True}
    [made] = clean([text], plain | options)
    assert made is not None
    return made


@every(
    ("markup", "visible"),
    [
        ("<p>one</p><p>two</p>", "one two"),
        ("a<br/>b<BR>c", "a b c"),
        ('<a title="a > b" href=\'x">y\'>link</a>', "link"),
        ("<a title=it's>x</a> y's", "x y's"),
        ("a <!-- no <b> --> b<!---->c", "a bc"),
        ("<!doctype html><?xml version='1'?><title>T</title>", "T"),
        ("<script>if (a < b) '</p>'</script>x<STYLE>p > a {}</style >y", "x y"),
        ("<template><p>no<template>no</template></p></template>yes", "yes"),
        ("1 < 2 > 0 & 3 &amp; 4 &lt;b&gt; &eacute;&#233;&#xe9;", "1 < 2 > 0 & 3 & 4 <b> ééé"),
        ("a <b", "a <b"),
        ("a <b title='> c", "a c"),
        ("<script>never closed", ""),
        ("a <!-- never closed", "a"),
        ("</p>a</ p>b", "a</ p>b"),
        (f"x &#{'9' * 10_000}; y", "x \ufffd y"),
    ],
)
def test_the_visible_text_stays(markup: str, visible: str) -> None:
    """Tags become spaces; comments, scripts and styles go; references become characters."""
    assert visible == cleaned(markup)


@every(
    "piece",
    [
        "='",
        "<!--",
        "<!",
        "<?",
        "<![CDATA[",
        "<",
        "</",
        "<a ",
        "</a ",
        "<a/",
        "<a x=",
        "<a x='",
        "<a '",
        "&",
        "&#9",
        "<script>",
        "<template>",
        "<script",
        "<a x=\"><a x='",
        "<a =",
        "-->",
        "<!-- --",
    ],
)
@every("before", ["", "<a "])
def test_markup_takes_linear_time(before: str, piece: str) -> None:
    """Thirty thousand unfinished tags or comments are read once each, not once for each other."""
    started = time.monotonic()
    cleaned(before + piece * 30_000)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_combining_marks_take_linear_time(form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> None:
    """A letter with 200,000 marks is put in order in pieces; what people write is not changed by that."""
    started = time.monotonic()
    made = cleaned("a" + "\u0301\u0323" * 100_000, unicode=form)
    assert time.monotonic() - started < SECONDS
    assert 200_000 <= len(made) < 215_000
    written = "é\u0323 \u1ebf 각 हिन्दी ﬁ " + "o\u0301\u0323" * 100 + "x" + "\u0301" * 30
    assert unicodedata.normalize(form, written) == cleaned(written, unicode=form)


def test_similar_texts_are_compared_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts with a common part, and no more, are not compared each with each; true copies are still found."""
    compared = 0
    similarity = cleaning._similarity

    def counted(one: list[int], other: list[int]) -> float:
        nonlocal compared
        compared += 1
        return similarity(one, other)

    monkeypatch.setattr(cleaning, "_similarity", counted)
    texts = [f"the same beginning of every text, and {number:b} {number * 7919}" for number in range(600)]
    kept = first_of_similar([*texts, *texts], 0.9)
    assert compared <= MAX_COMPARED * len(texts)
    assert not any(kept[600:])
    copies = first_of_similar([texts[0], texts[0] + ".", "something else entirely"], 0.8)
    assert copies == [True, False, True]
