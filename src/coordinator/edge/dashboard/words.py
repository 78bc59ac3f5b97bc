"""Numbers, times and states in words, as every page writes them: each number with its unit."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from markupsafe import Markup, escape

from coordinator.edge.models.base import moment, rfc3339
from coordinator.wire.amounts import short_units

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
NONE: Final = "–"
_NEEDS: Final[Mapping[str, str]] = {
    "gpu": "GPU {}",
    "cuda": "CUDA {}",
    "min_vram_gb": "{} GB on one GPU",
    "models": "model {}",
    "region": "region {}",
    "max_price": "at most {} a unit",
}
SHOWN_JSON: Final = 40_000
"""Characters of JSON that a page shows."""
STATE_SHAPES: Final[Mapping[str, tuple[str, str]]] = {
    "queued": ("wait", "M5 0 10 5 5 10 0 5z"),
    "running": ("run", "M1 0 10 5 1 10z"),
    "completed": ("done", "M0 5.5 3.8 9.5 10 1.5 8.6.4 3.6 7 1.3 4.3z"),
    "failed": ("fail", "M1.5 0 5 3.5 8.5 0 10 1.5 6.5 5 10 8.5 8.5 10 5 6.5 1.5 10 0 8.5 3.5 5 0 1.5z"),
    "canceled": ("off", "M0 3.8H10V6.2H0z"),
    "expired": ("off", "M1 0H9L5 5 9 10H1L5 5z"),
    "online": ("done", "M5 0A5 5 0 1 0 5 10 5 5 0 1 0 5 0z"),
    "draining": ("wait", "M5 0A5 5 0 0 0 5 10z"),
    "offline": ("off", "M5 0A5 5 0 1 0 5 10 5 5 0 1 0 5 0zM5 2A3 3 0 1 1 5 8 3 3 0 1 1 5 2z"),
    "critical": ("fail", "M5 0 10 10H0z"),
    "warning": ("wait", "M5 0 10 5 5 10 0 5z"),
    "notice": ("off", "M5 0A5 5 0 1 0 5 10 5 5 0 1 0 5 0z"),
}
"""By word: the tone, and the path of a shape in a square of ten. The shape tells what the colour tells."""


_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_ENDED: Final = re.compile(r"^Ended ([A-Z])([A-Z]+)\b")


def number(value: float | None, digits: int = 0) -> str:
    """48211 as `48,211`."""
    return NONE if value is None else f"{value:,.{digits}f}"


def duration(millis: float | None) -> str:
    """Milliseconds in the two largest units: `4 min 12 s`."""
    if millis is None:
        return NONE
    if millis < 0:
        return "0 s"
    if millis < _SECOND:
        return f"{millis:.0f} ms"
    if millis < 10 * _SECOND:
        return f"{millis / _SECOND:.1f} s"
    if millis < _MINUTE:
        return f"{millis // _SECOND:.0f} s"
    for unit, name, below, small in (
        (_MINUTE, "min", _SECOND, "s"),
        (_HOUR, "h", _MINUTE, "min"),
        (_DAY, "d", _HOUR, "h"),
    ):
        if unit == _DAY or millis < _next(unit):
            whole, rest = divmod(int(millis), unit)
            return f"{whole:,} {name} {rest // below} {small}" if rest // below else f"{whole:,} {name}"
    raise AssertionError


def _next(unit: int) -> int:
    return _HOUR if unit == _MINUTE else _DAY


def seconds(value: float | None) -> str:
    """Seconds as `duration` writes milliseconds."""
    return NONE if value is None else duration(value * 1000)


def size(octets: int | None) -> str:
    """Bytes in the largest unit: `1.4 MB`."""
    if octets is None:
        return NONE
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def now_text() -> str:
    """This moment, for the page's script: a reader's clock may be wrong."""
    return rfc3339(moment(time.time_ns() // 1_000_000))


def age(millis: int | None, now: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> Markup:
    """How long ago this moment was, kept current by the page's script: `4 min 12 s`."""
    return _time(millis, "age", duration(None if millis is None else max(0, now() - millis)))


def ahead(millis: int | None, now: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> Markup:
    """How long it is until this moment."""
    return _time(millis, "ahead", duration(None if millis is None else max(0, millis - now())))


def clock(millis: int | None) -> Markup:
    """A moment; the page's script writes it in the reader's zone."""
    return _time(millis, "clock", NONE if millis is None else rfc3339(moment(millis))[:19] + "Z")


def exact(millis: int | None) -> Markup:
    """A moment with milliseconds; the page's script writes it in the reader's zone."""
    return _time(millis, "exact", NONE if millis is None else rfc3339(moment(millis)))


def day(millis: int) -> Markup:
    """A day of UTC: `2026-01-31`."""
    at = rfc3339(moment(millis))
    return Markup('<time datetime="{}">{}</time>').format(at, at[:10])


def _time(millis: int | None, show: str, text: str) -> Markup:
    if millis is None:
        return escape(NONE)
    at = rfc3339(moment(millis))
    return Markup('<time datetime="{}" data-show="{}">{}</time>').format(at, show, text)


def sentence(text: str) -> Markup:
    """A sentence about a job for people: its moments in the reader's zone, and its state as a word."""
    plain = _ENDED.sub(lambda found: found[1] + found[2].lower(), text)
    pieces, last = [], 0
    for found in _MOMENT.finditer(plain):
        if not _is_moment(found[0]):
            continue  # a stranger's text, which a browser could not read as a date
        shown = Markup('<time datetime="{0}" data-show="clock">{0}</time>').format(found[0])
        pieces += [escape(plain[last : found.start()]), shown]
        last = found.end()
    return Markup("").join([*pieces, escape(plain[last:])])


def _is_moment(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def state(word: str, label: str | None = None) -> Markup:
    """A state: its shape, and its word."""
    return shape(word, label if label is not None else word.lower())


def shape(word: str, label: str) -> Markup:
    """The shape of a state beside any words."""
    tone, path = STATE_SHAPES.get(word.lower(), ("off", STATE_SHAPES["notice"][1]))
    return Markup(
        '<span class="state {}"><svg viewBox="0 0 10 10" aria-hidden="true"><path d="{}"/></svg>{}</span>'
    ).format(tone, path, label)


def short_id(job_id: object) -> str:
    """The part of an id that tells it apart on a page."""
    return str(job_id)[:18]


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 job`, `3 jobs`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def as_millis(at: datetime) -> int:
    """A moment of the API's models, for the filters of times."""
    return round(at.timestamp() * 1000)


def need(name: str, value: Any) -> str:
    """One constraint of a job: `24 GB on one GPU`."""
    told = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return _NEEDS.get(name, name.replace("_", " ") + " {}").format(told)


def a_unit(unit: str) -> str:
    """A unit of prices with its article: `an hour`, `a frame`."""
    plain = unit.removeprefix("per_").replace("_", " ")
    return f"an {plain}" if plain[:1] in "aeio" or plain == "hour" else f"a {plain}"


def pretty(value: Any) -> str:
    """JSON for people, cut where a page would become too long."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= SHOWN_JSON else text[:SHOWN_JSON] + "\n… (cut here)"


def compact(value: Any) -> str:
    """JSON in one line."""
    return json.dumps(value, ensure_ascii=False)


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "sentence": sentence,
    "number": number,
    "duration": duration,
    "seconds": seconds,
    "size": size,
    "age": age,
    "ahead": ahead,
    "clock": clock,
    "day": day,
    "units": short_units,
    "exact": exact,
    "state": state,
    "shape": shape,
    "short_id": short_id,
    "plural": plural,
    "json": compact,
    "pretty": pretty,
    "need": need,
    "a_unit": a_unit,
    "as_millis": as_millis,
}
