"""The miner's HTTP transport, for networks without AMQP: long polls that claim, results by POST."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import structlog
from pydantic_core import to_json

from coordinator.miner.transport import NOT_LIVE, HeldOffer, MinerInbox
from coordinator.wire.amqp.batching import RETRY_LATER
from coordinator.wire.answers import AnswerJson, read_answer, refused
from coordinator.wire.backoff import Backoff, RetryClock
from coordinator.wire.gathering import Gathering
from coordinator.wire.heartbeat import Heartbeat
from coordinator.wire.http.proxies import new_client
from coordinator.wire.http.signing import signing
from coordinator.wire.offers import BadOffer, Offer, read_offer
from coordinator.wire.spans import sending

POLL_WAIT_SECONDS = 30
REQUEST_TIMEOUT_SECONDS = 30.0
REPORT_TIMEOUT_SECONDS = 5.0
POLLS_AT_A_TIME = 2
"""A poll claims a job for each slot that waits, up to MOST_OFFERS."""
MOST_OFFERS = 64
LONGEST_RETRY_AFTER_SECONDS = 60.0

_PATHS = {
    "miner.register": "/v1/miners/register",
    "miner.drain": "/v1/miners/drain",
    "miner.leave": "/v1/miners/leave",
    "job.start": "/v1/miners/{job_id}/start",
    "job.complete": "/v1/miners/{job_id}/result",
    "job.fail": "/v1/miners/{job_id}/fail",
    "job.release": "/v1/miners/{job_id}/release",
    "account.bill": "/v1/miners/{job_id}/bill",
}


_NOT_OURS = (httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND, httpx.codes.CONFLICT, httpx.codes.GONE)
"""The statuses of a refused progress report: the attempt is over, or somebody else's."""


@dataclass(frozen=True, slots=True)
class ClaimedOffer:
    """An offer from a poll (a `HeldOffer`): it is claimed, so there is nothing to settle."""

    offer: Offer
    claimed: bool = True

    def done(self) -> None:
        """Does nothing: the poll took it off the queue."""

    def back(self) -> None:
        """Does nothing: when the session ends, other miners get its jobs."""


class _Parked(NamedTuple):
    """Polls that have waited one after the other, in the event loop's time."""

    session_id: str
    since: float
    until: float
    """When the last one has to be answered."""


class HttpTransport:
    """A miner's connection to the coordinator's HTTP edge (a `Transport`). `key` is `name:secret`."""

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        poll_wait_seconds: int = POLL_WAIT_SECONDS,
        backoff: Backoff | None = None,
        clock: RetryClock | None = None,
    ) -> None:
        self._client = new_client(
            base_url,
            base_url=base_url,
            headers={"X-Api-Key": key},
            timeout=REQUEST_TIMEOUT_SECONDS,
            auth=signing(),
        )
        self._poll_wait = poll_wait_seconds
        self._backoff = backoff or Backoff()
        self._clock = clock or RetryClock()
        self._inbox: MinerInbox | None = None
        self._session: dict[str, Any] = {}
        self._live = asyncio.Event()
        self._ended = False
        self._quiet_until = 0.0
        self._polling = asyncio.Semaphore(POLLS_AT_A_TIME)
        self._claimed: deque[HeldOffer] = deque()
        """Claimed by the poll of another slot, or with results: for the slots that wait, or are about to."""
        self._takers = 0
        """Slots that wait for their turn to poll, less those that a poll under way asks for."""
        self._results = Gathering[Mapping[str, Any], AnswerJson](self._complete_all)
        self._takes_turns = True
        """Whether polls of this session may hand in results."""
        self._waiting: set[asyncio.Task[Any]] = set()
        self._parked: _Parked | None = None
        self._told: Heartbeat | None = None
        """The last heartbeat that the coordinator has accepted."""
        self._log = structlog.get_logger().bind()
        self.position = 0
        """The last position in the log that an answer named."""

    async def start(self, inbox: MinerInbox, slots: int) -> None:
        self._inbox = inbox
        self._polling = asyncio.Semaphore(min(slots, POLLS_AT_A_TIME))

    async def close(self) -> None:
        self.stop_taking()
        await self._results.close()
        await self._client.aclose()

    async def register(self, command: Mapping[str, Any]) -> AnswerJson:
        answer = await self.call("miner.register", command)
        if answer["status"] == "accepted":
            self._session = {"miner_id": command["miner_id"], "session_id": command["session_id"]}
            self._takes_turns = True
            self._live.set()
        return answer

    async def call(self, kind: str, command: Mapping[str, Any]) -> AnswerJson:
        path = "/v1/miners/poll" if kind == "job.complete" and self._may_take_turn else _PATHS[kind]
        async with sending(kind, command, path) as sent:
            if kind == "job.complete":
                answer = await self._results.call(sent.fields, len(to_json(dict(sent.fields))))
            else:
                answer = await self._call_alone(kind, sent.fields)
            sent.answer = answer
            return answer

    async def _complete_all(self, commands: Sequence[Mapping[str, Any]]) -> list[AnswerJson | Exception]:
        """Hand in the results that gathered; what an array does not settle is sent alone."""
        answers: list[AnswerJson | None] = [None] * len(commands)
        results = [dict(command) for command in commands]
        said = None
        if self._may_take_turn:
            said = await self._take_turn(results)
        elif len(results) > 1:
            said = self._answer(await self._post("/v1/miners/results", {"results": results})).get("answers")
        if isinstance(said, list) and len(said) == len(commands):
            answers = [read_answer(answer) for answer in said]
        settled: list[AnswerJson | Exception] = []
        for command, answer in zip(commands, answers, strict=True):
            if answer is None or answer.get("code") in RETRY_LATER:
                settled.append(await self._call_alone("job.complete", command))
            else:
                settled.append(answer)
        return settled

    @property
    def _may_take_turn(self) -> bool:
        """Whether results are handed in with a poll for as many jobs."""
        return self._live.is_set() and self._takes_turns and not self._ended

    async def _take_turn(self, results: list[dict[str, Any]]) -> Any:
        """The answers to these results, and jobs that are at hand for their slots; None if it was refused."""
        most = min(len(results), MOST_OFFERS)
        body = {**self._session, "max_wait_seconds": 0, "max_offers": most, "results": results}
        turn = self._answer(await self._post("/v1/miners/poll", body))
        if turn.get("code") == "INVALID_PAYLOAD":
            self._takes_turns = False  # an older coordinator, whose polls have no results
        if isinstance(offers := turn.get("offers"), list):
            self._claimed += self._read(offers)
        return turn.get("answers")

    async def _call_alone(self, kind: str, command: Mapping[str, Any]) -> AnswerJson:
        path = _PATHS[kind]
        body = dict(command)
        if "{job_id}" in path:
            path = path.format(job_id=body.pop("job_id"))
        response = await self._post(path, body)
        return self._answer(response)

    async def heartbeat(self, beat: Heartbeat, timeout_seconds: float) -> AnswerJson | None:
        if self._is_implied(beat, timeout_seconds):
            return {"status": "accepted", "state": "ONLINE"}
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await self._client.post("/v1/miners/heartbeat", json=beat.model_dump(mode="json"))
        except (httpx.TransportError, TimeoutError):
            return None
        if _to_repeat(response):
            return None
        answer = self._answer(response)
        self._told = beat if answer["status"] == "accepted" else None
        return answer

    def _is_implied(self, beat: Heartbeat, interval: float) -> bool:
        """Whether the coordinator knows all that this heartbeat says: the last one said it, and polls have
        waited since. It counts these as heartbeats, and ends them when the session is over or drained.
        """
        parked, now = self._parked, asyncio.get_running_loop().time()
        return (
            not beat.inflight
            and beat == self._told
            and parked is not None
            and parked.session_id == beat.session_id
            and parked.since <= now - interval
            and now < parked.until + interval
        )

    async def report(self, offer: Offer, report: Mapping[str, Any]) -> bool:
        loop = asyncio.get_running_loop()
        if loop.time() < self._quiet_until:
            return False
        path = f"/v1/miners/{offer.job_id}/progress"
        try:
            response = await self._client.post(path, json=dict(report), timeout=REPORT_TIMEOUT_SECONDS)
        except httpx.TransportError:
            return False
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self._quiet_until = loop.time() + max(1.0, _retry_after(response))
            return False
        if response.is_success and self._inbox is not None and self._answer(response).get("whole"):
            hint = {"hint": "progress", "job_id": str(offer.job_id), "attempt": offer.attempt}
            self._inbox.on_hint(hint)
        if response.status_code in _NOT_OURS and self._inbox is not None:
            answer = self._answer(response)
            if not answer["code"].startswith("HTTP_"):  # a coordinator without this path has no code
                self._log.info("report_refused", code=answer["code"], job=str(offer.job_id))
                self._inbox.on_report_refused(str(offer.job_id), offer.attempt)
        # A repeat would be refused again.
        return not response.is_server_error

    async def take(self) -> HeldOffer | None:
        if self._claimed:
            return self._claimed.popleft()
        self._takers += 1
        try:
            await self._polling.acquire()
        finally:
            self._takers -= 1
        try:
            while not self._claimed and not self._ended:
                await self._or_end(self._live.wait())
                if self._ended:
                    break
                others = min(max(0, self._takers), MOST_OFFERS - 1)
                self._takers -= others
                try:
                    # The end does not cut this short: the poll may claim jobs, and we must know of them.
                    self._claimed += await self._poll(self._session, 1 + others)
                finally:
                    self._takers += others
            return self._claimed.popleft() if self._claimed else None
        finally:
            self._polling.release()

    def suspend(self) -> None:
        self._live.clear()

    def stop_taking(self) -> None:
        self._ended = True
        for task in self._waiting:
            task.cancel()

    async def _poll(self, session: dict[str, Any], most: int) -> Sequence[HeldOffer]:
        now, session_id = asyncio.get_running_loop().time(), str(session["session_id"])
        before = self._parked
        since = now if before is None or before.session_id != session_id else before.since
        self._parked = _Parked(session_id, since, now + self._poll_wait)
        response = await self._post(
            "/v1/miners/poll",
            {**session, "max_wait_seconds": self._poll_wait, "max_offers": most},
            timeout_seconds=self._poll_wait + REQUEST_TIMEOUT_SECONDS,
        )
        if response.status_code == httpx.codes.NO_CONTENT:
            return ()  # the next poll follows at once
        self._parked = None
        answer = self._answer(response)
        if answer["status"] == "accepted":
            offers = answer.get("offers")
            if held := self._read(offers if isinstance(offers, list) else [answer]):
                return held
        elif session is self._session and self._inbox is not None:
            if answer["code"] in NOT_LIVE:
                self._live.clear()
                self._inbox.on_session_lost(str(session["session_id"]))
                return ()
            if answer["code"] == "MINER_DRAINING":
                self._live.clear()
                self._inbox.on_hint({"hint": "drain", "session_id": session["session_id"]})
                return ()
            self._log.warning("poll_refused", code=answer["code"], detail=answer["detail"])
        await self._clock.sleep(self._backoff.delay(3))
        return ()

    def _read(self, offers: Sequence[Any]) -> list[HeldOffer]:
        held: list[HeldOffer] = []
        for offer in offers:
            try:
                held.append(ClaimedOffer(read_offer(offer)))
            except BadOffer as error:
                self._log.warning("bad_offer", reason=str(error))
        return held

    async def _or_end(self, waiting: Any) -> None:
        """Wait for `waiting`, or until `stop_taking`."""
        task = asyncio.ensure_future(waiting)
        self._waiting.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._waiting.discard(task)
            task.cancel()

    async def _post(
        self, path: str, body: Mapping[str, Any], timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    ) -> httpx.Response:
        """POST until an answer comes that a repeat would not change."""
        tries = 0
        trace = body.get("traceparent")
        headers = None if trace is None else {"traceparent": str(trace)}
        while True:
            delay = self._backoff.delay(tries)
            reason: str
            try:
                response = await self._client.post(path, json=body, headers=headers, timeout=timeout_seconds)
            except httpx.TransportError as error:
                reason = type(error).__name__
            else:
                if not _to_repeat(response):
                    return response
                reason = f"HTTP status {response.status_code}"
                delay = max(delay, _retry_after(response))
            self._parked = None
            if tries == 0:
                self._log.warning("coordinator_unreachable", path=path, reason=reason)
            await self._clock.sleep(delay)
            tries += 1

    def _answer(self, response: httpx.Response) -> AnswerJson:
        body: Any = None
        with contextlib.suppress(ValueError):
            body = response.json()
        fields = body if isinstance(body, dict) else {}
        if not response.is_success:
            code = fields.get("code") or f"HTTP_{response.status_code}"
            return refused(str(code), str(fields.get("detail") or fields.get("title") or ""))
        position = fields.get("position")
        if isinstance(position, int):
            self.position = max(self.position, position)
        return {**fields, "status": "accepted"}


def _to_repeat(response: httpx.Response) -> bool:
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        return True
    if response.is_success:
        return False
    try:
        problem = response.json()
    except ValueError:
        return False
    return isinstance(problem, dict) and problem.get("code") in RETRY_LATER


def _retry_after(response: httpx.Response) -> float:
    """The seconds of the header `Retry-After`; 0 without it, and for its other form, a date."""
    try:
        asked = float(response.headers.get("Retry-After", "0"))
    except ValueError:
        return 0.0
    return min(max(0.0, asked), LONGEST_RETRY_AFTER_SECONDS)


__all__ = ["HttpTransport"]
