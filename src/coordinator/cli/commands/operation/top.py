"""`coordinator top`: what the coordinator does now, in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.options import Json, Key, Url, talk
from coordinator.runtime import terminal

if TYPE_CHECKING:
    from coordinator.cli.commands.operation.figures import Figures
    from coordinator.client import AsyncCoordinator

PLAIN_WIDTH = 100
"""Where the output is no terminal."""


def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, help="Seconds between two readings.")
    ] = 2.0,
    url: Url = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """Watch jobs, miners, followers and health until Ctrl-C; with an admin's key.

    While the coordinator is out of reach, the last figures stay, and it goes on when it is back. --json
    prints one line for each reading. Where the output is no terminal, one reading is shown.
    """
    once = once or not (as_json or sys.stdout.isatty())

    async def work(client: AsyncCoordinator) -> None:
        if once:
            await _once(client, as_json=as_json)
        elif as_json:
            await _repeat(client, interval, _line)
        else:
            await _live(client, interval)

    try:
        talk(url, api_key, "admin", work)
    except KeyboardInterrupt:
        return  # this is how it ends


async def _once(client: AsyncCoordinator, *, as_json: bool) -> None:
    from coordinator.cli.commands.operation.figures import read_figures
    from coordinator.cli.commands.operation.screen import lines

    figures = await read_figures(client, None, time.time())
    if as_json:
        terminal.document(figures.document())
        return
    terminal.write("\n".join(lines(figures, _width())))


async def _live(client: AsyncCoordinator, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from coordinator.cli.commands.operation.screen import screen

    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def show(figures: Figures | None, problem: str) -> None:
            width, height = console.size
            live.update(screen(figures, problem, width, height), refresh=True)

        await _repeat(client, interval, show)


async def _repeat(
    client: AsyncCoordinator, interval: float, show: Callable[[Figures | None, str], None]
) -> None:
    """Read again and again. Raises CoordinatorError where no later reading could go better."""
    import asyncio  # not for the help of other commands

    from coordinator.cli.commands.operation.figures import read_figures
    from coordinator.client import NotAuthorised, RequestRefused, TryAgain, Unreachable

    figures: Figures | None = None
    away_since: float | None = None
    while True:
        now = time.time()
        try:
            figures = await read_figures(client, figures, now)
        except (Unreachable, TryAgain) as error:
            away_since = away_since or now
            show(figures, f"out of reach for {now - away_since:.0f} s: {error.detail}")
        except NotAuthorised:
            raise
        except RequestRefused as error:
            show(figures, f"{error.code}: {error.detail}")
        else:
            away_since = None
            show(figures, "")
        await asyncio.sleep(interval)


def _line(figures: Figures | None, problem: str) -> None:
    if problem or figures is None:
        terminal.line({"at": time.time(), "problem": problem})
    else:
        terminal.line(figures.document())


def _width() -> int:
    from rich.console import Console

    return Console().size.width if sys.stdout.isatty() else PLAIN_WIDTH
