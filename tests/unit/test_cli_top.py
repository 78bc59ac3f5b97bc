"""The screen of `coordinator top`: it fits any terminal, in ASCII, and strangers' names can't act on it."""

from __future__ import annotations

import pytest

from coordinator.cli.commands.operation.figures import Figures, FollowerLag, MinerLoad, Waiting
from coordinator.cli.commands.operation.screen import age, lines, screen

FIGURES = Figures(
    at=100.0,
    url="http://127.0.0.1:8011",
    mode="standard",
    status="failing",
    reasons=["broker: no connection"],
    warnings=["a witness does not sign"],
    position=4711,
    events=12.34,
    commands=None,
    completed=250.4,
    queued=3,
    oldest_seconds=3723.0,
    running=2,
    offers=None,
    slots=8,
    busy=2,
    miners_by_state={"ONLINE": 2, "DRAINING": 1},
    followers={"projector": FollowerLag("leading", 7), "timers": FollowerLag("standby", None)},
    waiting=[Waiting("whisper", {"gpu": "nvidia"}, 3, 61.0, "No live miner has an NVIDIA GPU.")],
    miners=[MinerLoad("rig\x1b[2J", "DRAINING", 1, 4), MinerLoad("farm", "ONLINE", 1, 4)],
)

WIDE = """\
failing  standard  position 4711  http://127.0.0.1:8011
  ! broker: no connection
  ? a witness does not sign
per second  events 12.3  commands -  completed 250
jobs        queued 3, oldest 1h2m, running 2, offered ?
miners      1 draining, 2 online
slots       [##........] 2 of 8 busy

FOLLOWERS
  projector   leading  lag 7
  timers      standby

WAITING (the newest queued jobs)
  3 x whisper, 1m1s
    No live miner has an NVIDIA GPU.

MINERS
  [##........] 1/4    rig\\x1b[2J draining
  [##........] 1/4    farm"""


def test_the_whole_screen() -> None:
    """Health, rates, jobs, miners with slots, followers' lag, waiting classes and why, on a wide terminal."""
    assert WIDE == "\n".join(lines(FIGURES, 100))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (20, 5), (5, 1)])
def test_a_small_terminal(width: int, height: int) -> None:
    """No line is wider, and there are no more of them, than the terminal has; all of it is ASCII."""
    shown = screen(FIGURES, "out of reach for 3 s: no connection", width, height).plain.split("\n")
    assert len(shown) <= max(3, height)
    assert max(map(len, shown)) <= max(20, width)
    assert all(line.isascii() and line.isprintable() for line in shown)
    assert shown[0].startswith("out of reach for")


def test_ages() -> None:
    """Durations have two units at most."""
    found = [age(seconds) for seconds in (0.4, 59, 60, 3599, 3600, 86399, 86400, 200_000)]
    assert ["0s", "59s", "1m0s", "59m59s", "1h0m", "23h59m", "1d0h", "2d7h"] == found
