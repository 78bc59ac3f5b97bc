"""The screen of `coordinator top`: text that fits the terminal, in ASCII but for names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from coordinator.runtime.terminal import plain

if TYPE_CHECKING:
    from rich.text import Text

    from coordinator.cli.commands.operation.figures import Figures

BAR_WIDTH = 10
LEAST_WIDTH = 20


def screen(figures: Figures | None, problem: str, width: int, height: int) -> Text:
    """All lines, cut to the terminal's size. `problem`: why the figures are not of now; empty if they are."""
    from rich.text import Text

    shown = Text(no_wrap=True, overflow="crop")
    width = max(LEAST_WIDTH, width)
    lines = [(text, style) for text, style in _lines(figures, problem, width)]
    for number, (text, style) in enumerate(lines[: max(3, height)]):
        shown.append(("\n" if number else "") + _cut(text, width), style)
    return shown


def lines(figures: Figures, width: int) -> Iterator[str]:
    """The same as plain lines, of any number."""
    for text, _ in _lines(figures, "", max(LEAST_WIDTH, width)):
        yield _cut(text, width).rstrip()


def _lines(figures: Figures | None, problem: str, width: int) -> Iterator[tuple[str, str]]:
    if problem:
        yield plain(problem), "bold red"
    if figures is None:
        return
    yield _head(figures), "bold" if figures.status == "ok" else "bold red"
    for reason in figures.reasons:
        yield f"  ! {plain(reason)}", "red"
    for warning in figures.warnings:
        yield f"  ? {plain(warning)}", "yellow"
    rates = (("events", figures.events), ("commands", figures.commands), ("completed", figures.completed))
    yield "per second  " + "  ".join(f"{name} {_number(rate)}" for name, rate in rates), ""
    oldest = "" if figures.oldest_seconds is None else f", oldest {age(figures.oldest_seconds)}"
    running, offers = _count(figures.running), _count(figures.offers)
    yield f"jobs        queued {_count(figures.queued)}{oldest}, running {running}, offered {offers}", ""
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(figures.miners_by_state.items()))
    yield f"miners      {states or 'none'}", ""
    if figures.slots is not None and figures.busy is not None:
        yield f"slots       {_bar(figures.busy, figures.slots)} {figures.busy} of {figures.slots} busy", ""
    yield "", ""
    yield "FOLLOWERS", "bold"
    yield from _followers(figures)
    if figures.waiting:
        yield "", ""
        yield "WAITING (the newest queued jobs)", "bold"
        for waiting in figures.waiting:
            yield f"  {waiting.jobs} x {plain(waiting.service)}, {age(waiting.oldest_seconds)}", "yellow"
            yield from ((f"    {part}", "") for part in _wrapped(plain(waiting.why), width - 4))
    if figures.miners:
        yield "", ""
        yield "MINERS", "bold"
        for miner in figures.miners:
            load = f"{_bar(miner.busy, miner.slots)} {miner.busy}/{miner.slots}"
            state = "" if miner.state == "ONLINE" else f" {miner.state.lower()}"
            yield f"  {load:<{BAR_WIDTH + 9}} {plain(miner.miner_id)}{state}", ""


def _head(figures: Figures) -> str:
    return f"{figures.status}  {figures.mode}  position {figures.position}  {plain(figures.url)}"


def _followers(figures: Figures) -> Iterator[tuple[str, str]]:
    for name, follower in sorted(figures.followers.items()):
        lag = "" if follower.lag is None else f"  lag {follower.lag}"
        style = "red" if follower.status == "failed" else ""
        yield f"  {plain(name):<11} {plain(follower.status)}{lag}", style


def age(seconds: float) -> str:
    """A duration in two units at most, such as 3m20s."""
    whole = int(seconds)
    for unit, size, smaller, least in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // least}{smaller}"
    return f"{whole}s"


def _number(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"


def _count(count: int | None) -> str:
    return "?" if count is None else str(count)


def _bar(done: int, total: int) -> str:
    filled = min(BAR_WIDTH, round(BAR_WIDTH * done / total)) if total else 0
    return "[" + "#" * filled + "." * (BAR_WIDTH - filled) + "]"


def _wrapped(text: str, width: int) -> Sequence[str]:
    from textwrap import wrap

    return wrap(text, max(LEAST_WIDTH - 4, width))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "~"
