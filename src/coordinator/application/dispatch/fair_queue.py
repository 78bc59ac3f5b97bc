"""The order of queued work: strict priority, then a fair share between clients, then age.

The queue keeps the head of each lane (one class, priority and client) in memory and leaves the rest in the
dispatcher's table, so that a million queued jobs cost rows and not memory. Clients can create any number of
lanes, so heads get shorter as the number of lanes grows. Pure: no I/O, no clock.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from typing import NamedTuple

LANE_HEAD = 500  # the most queued jobs of a lane in memory, while there are few lanes
MIN_LANE_HEAD = 8  # for any number of lanes, so that each query for a lane brings a few jobs
QUEUE_JOBS = 50_000  # queued jobs of all lanes in memory, about half a KiB each


class QueuedWork(NamedTuple):
    """A job that waits for a miner."""

    job_id: str
    attempt: int
    job_class: str
    client: str
    priority: int
    position: int
    """The position of the event that queued the job, which gives its age."""
    service: str
    payload_digest: str
    timeout_seconds: int
    expires_at: int
    traceparent: str
    """The trace of its submit."""
    tried: str = ""
    """Its attempts without a result, as outcomes and miners: "failed:rig lost:node@other"."""


LaneKey = tuple[str, int, str]
"""(class, priority, client)"""
Age = tuple[int, int]
"""The place of a job as a position, and its own position, which no two jobs share."""


class Lane:
    """The queued jobs of one class, priority and client, oldest first."""

    __slots__ = ("cursor", "jobs", "key", "read_to", "spilled")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.jobs: deque[QueuedWork] = deque()
        self.spilled = False
        """Whether the table has more jobs, after `cursor`."""
        self.cursor = 0
        """The position of the youngest job that was ever in `jobs`."""
        self.read_to = -1
        """The table has no more jobs for the lane as of this position."""


class FairQueue:
    """All lanes. A job is in the queue while it waits without an offer."""

    def __init__(self) -> None:
        self._lanes: dict[str, dict[LaneKey, Lane]] = {}
        self._lane_count = 0
        self._queued: dict[str, QueuedWork] = {}
        """The jobs in the queue; a lane may still hold jobs that have left it."""
        self._behind: dict[str, int] = {}
        """The place of jobs that wait behind others, as a position."""
        self._turn: dict[str, float] = {}
        """The number of jobs taken for each client, in virtual time."""
        self._now = 0.0

    def __len__(self) -> int:
        return len(self._queued)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._queued

    def get(self, job_id: str) -> QueuedWork | None:
        return self._queued.get(job_id)

    @property
    def head_length(self) -> int:
        """The most queued jobs of a lane in memory, given the number of lanes."""
        share = QUEUE_JOBS // max(1, self._lane_count)
        return min(LANE_HEAD, max(MIN_LANE_HEAD, share))

    def add(self, work: QueuedWork) -> None:
        """Add a job at the end of its lane."""
        lane = self._lane(work)
        if lane.spilled or len(lane.jobs) >= self.head_length:
            lane.spilled = True
            return
        self._put(lane, work)

    def put_back(self, work: QueuedWork, behind: int | None = None) -> None:
        """Return a job whose offer failed to the head of its lane; or behind the jobs up to a position."""
        if work.job_id in self._queued:
            return
        self._queued[work.job_id] = work
        jobs = self._lane(work).jobs
        if behind is None:
            jobs.appendleft(work)
        else:
            self._behind[work.job_id] = behind + 1
            jobs.append(work)

    def remove(self, job_id: str) -> None:
        """Remove a job that was started or is final."""
        work = self._queued.pop(job_id, None)
        self._behind.pop(job_id, None)
        if work is not None:
            lanes = self._lanes.get(work.job_class, {})
            lane = lanes.get((work.job_class, work.priority, work.client))
            if lane is not None and not self._prune(lane) and not lane.spilled:
                self._drop(lane)

    def low_lanes(self, classes: Collection[str], stored_to: int) -> Iterator[Lane]:
        """Lanes of these classes whose head is nearly used up while the table may have more; see `load`.

        `stored_to`: the position up to which the table is complete.
        """
        low = self.head_length // 2  # read the next jobs early, so that no miner waits for the query
        for job_class in self._waiting(classes):
            for lane in self._lanes[job_class].values():
                if not lane.spilled or stored_to <= lane.read_to:
                    continue
                if len(lane.jobs) < low or not self._prune(lane):
                    yield lane

    def load(
        self,
        lane: Lane,
        more: Sequence[QueuedWork],
        stored_to: int,
        *,
        complete: bool,
        is_outdated: Callable[[QueuedWork], bool] = lambda _: False,
    ) -> None:
        """Add the next `head_length` jobs of a lane, or fewer if no more are left, read after its cursor.

        `stored_to`: the position up to which the table is complete; `complete`: no event came since.
        `is_outdated`: whether a job has left the queue since it was stored, which its lane can't know: a lane
        that ran empty and was created again has lost its cursor.
        """
        for work in more:
            if is_outdated(work):
                lane.cursor = max(lane.cursor, work.position)
            else:
                self._put(lane, work)
        if len(more) < self.head_length:
            lane.read_to = stored_to
            lane.spilled = not complete
        else:
            lane.spilled = True

    def lane(self, key: LaneKey) -> Lane:
        """The lane with this key, created if it is missing."""
        lanes = self._lanes.setdefault(key[0], {})
        if key not in lanes:
            lanes[key] = Lane(key)
            self._lane_count += 1
            # A client that comes back starts at the present: idle time earns no extra share.
            self._turn[key[2]] = max(self._turn.get(key[2], 0.0), self._now)
        return lanes[key]

    def take(
        self, classes: Collection[str], count: int, rooms: MutableMapping[str, int] | None = None
    ) -> list[QueuedWork]:
        """Take up to `count` jobs of these classes, in order. `rooms`: the most of each service."""
        # Lanes of one priority and client share their turns; among them age decides. So a turn moves one
        # queue, for any number of classes.
        queues: dict[tuple[int, str], list[tuple[Age, Lane]]] = {}
        for job_class in self._waiting(classes):
            for lane in list(self._lanes[job_class].values()):
                if self._prune(lane):
                    if rooms is not None and rooms[lane.jobs[0].service] <= 0:
                        break  # a class has one service
                    queues.setdefault(lane.key[1:], []).append((self._age(lane), lane))
                elif not lane.spilled:
                    self._drop(lane)
        heap: list[tuple[int, float, Age, tuple[int, str]]] = []
        for key, queue in queues.items():
            heapq.heapify(queue)
            heap.append(self._rank(key, queue))
        heapq.heapify(heap)
        taken: list[QueuedWork] = []
        while heap and len(taken) < count:
            _, turn, _, key = heapq.heappop(heap)
            queue, client = queues[key], key[1]
            if turn == self._turn[client]:  # else the client was served since, at another priority
                lane = queue[0][1]
                if rooms is not None:
                    service = lane.jobs[0].service
                    if rooms[service] <= 0:
                        heapq.heappop(queue)
                        if queue:
                            heapq.heappush(heap, self._rank(key, queue))
                        continue
                    rooms[service] -= 1
                work = lane.jobs.popleft()
                del self._queued[work.job_id]
                self._behind.pop(work.job_id, None)
                self._now = turn
                self._turn[client] += 1.0
                taken.append(work)
                if self._prune(lane):
                    heapq.heapreplace(queue, (self._age(lane), lane))
                else:
                    heapq.heappop(queue)
            if queue:
                heapq.heappush(heap, self._rank(key, queue))
        return taken

    @property
    def empty(self) -> bool:
        """Whether no lane has a job, in memory or in the table."""
        return not self._lanes

    def classes(self) -> set[str]:
        """The classes of all jobs in the queue, in memory or in the table."""
        return set(self._lanes)

    def _waiting(self, classes: Collection[str]) -> list[str]:
        """The classes with lanes among `classes`; lanes are far fewer than all known classes."""
        return [job_class for job_class in self._lanes if job_class in classes]

    def _drop(self, lane: Lane) -> None:
        lanes = self._lanes[lane.key[0]]
        del lanes[lane.key]
        self._lane_count -= 1
        if not lanes:
            del self._lanes[lane.key[0]]

    def _lane(self, work: QueuedWork) -> Lane:
        return self.lane((work.job_class, work.priority, work.client))

    def _put(self, lane: Lane, work: QueuedWork) -> None:
        lane.cursor = max(lane.cursor, work.position)
        if work.job_id not in self._queued:
            self._queued[work.job_id] = work
            lane.jobs.append(work)

    def _prune(self, lane: Lane) -> bool:
        """Drop jobs that have left the queue from the lane's head; returns whether a job is left."""
        while lane.jobs and self._queued.get(lane.jobs[0].job_id) is not lane.jobs[0]:
            lane.jobs.popleft()
        return bool(lane.jobs)

    def _age(self, lane: Lane) -> Age:
        """The place of a lane's first job among those of other lanes."""
        first = lane.jobs[0]
        return self._behind.get(first.job_id, first.position), first.position

    def _rank(
        self, key: tuple[int, str], queue: list[tuple[Age, Lane]]
    ) -> tuple[int, float, Age, tuple[int, str]]:
        priority, client = key
        return (-priority, self._turn[client], queue[0][0], key)
