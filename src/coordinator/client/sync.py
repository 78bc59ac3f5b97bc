"""The client for programs that are not asynchronous: blocking methods of `coordinator` and `job`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from coordinator.client.blocking import Facade, LoopThread, blocking, iterating
from coordinator.client.coordinator import AsyncCoordinator
from coordinator.client.http import ANSWER_TIMEOUT_S, TRIES
from coordinator.client.job import AsyncBatches, AsyncJob
from coordinator.client.models import JobSubmitAnswer
from coordinator.client.resources.accounts import AsyncAccounts
from coordinator.client.resources.keys import AsyncKeys
from coordinator.client.resources.quotas import AsyncQuotas
from coordinator.client.resources.registry import AsyncRegistry
from coordinator.client.resources.settlements import AsyncSettlements
from coordinator.client.resources.webhooks import AsyncWebhooks

if TYPE_CHECKING:
    import httpx


def _job(thread: LoopThread, job: AsyncJob) -> Job:
    return Job(thread, job)


class Job(Facade[AsyncJob]):
    """One job of a coordinator. Made by `submit`, or by `job(job_id)`."""

    view = blocking(AsyncJob.view)
    wait = blocking(AsyncJob.wait)
    result = blocking(AsyncJob.result)
    whole_result = blocking(AsyncJob.whole_result)
    stream = iterating(AsyncJob.stream)
    cancel = blocking(AsyncJob.cancel)
    retry = blocking(AsyncJob.retry, _job)
    erase = blocking(AsyncJob.erase)
    history = blocking(AsyncJob.history)
    match = blocking(AsyncJob.match)
    receipt = blocking(AsyncJob.receipt)
    passport = blocking(AsyncJob.passport)
    download = blocking(AsyncJob.download)

    @property
    def job_id(self) -> str:
        """The job's id, a UUID."""
        return self._inner.job_id

    @property
    def submitted(self) -> JobSubmitAnswer | None:
        """The answer to the submit; None if this handle was made by the job's id."""
        return self._inner.submitted

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.job_id!r})"


def _jobs(thread: LoopThread, jobs: list[AsyncJob]) -> list[Job]:
    return [Job(thread, job) for job in jobs]


class Batches(Facade[AsyncBatches]):
    """Searches for jobs, and bulk cancel and submit-again on all that match (`client.batches`)."""

    search = iterating(AsyncBatches.search)
    plan = blocking(AsyncBatches.plan)
    begin = blocking(AsyncBatches.begin)
    show = blocking(AsyncBatches.show)
    recent = blocking(AsyncBatches.recent)
    cancel = blocking(AsyncBatches.cancel)


class Keys(Facade[AsyncKeys]):
    """The API keys of a coordinator (`client.keys`), for admins."""

    create = blocking(AsyncKeys.create)
    list = iterating(AsyncKeys.list)
    rotate = blocking(AsyncKeys.rotate)
    revoke = blocking(AsyncKeys.revoke)


class Accounts(Facade[AsyncAccounts]):
    """Money (`client.accounts`)."""

    list = iterating(AsyncAccounts.list)
    show = blocking(AsyncAccounts.show)
    entries = iterating(AsyncAccounts.entries)
    services = blocking(AsyncAccounts.services)
    statement = blocking(AsyncAccounts.statement)
    deposit = blocking(AsyncAccounts.deposit)
    withdraw = blocking(AsyncAccounts.withdraw)
    dispute = blocking(AsyncAccounts.dispute)
    refund = blocking(AsyncAccounts.refund)
    dismiss = blocking(AsyncAccounts.dismiss)
    quote = blocking(AsyncAccounts.quote)


class Settlements(Facade[AsyncSettlements]):
    """Batches of payouts (`client.settlements`)."""

    list = iterating(AsyncSettlements.list)
    show = blocking(AsyncSettlements.show)
    close = blocking(AsyncSettlements.close)
    confirm = blocking(AsyncSettlements.confirm)
    refuse = blocking(AsyncSettlements.refuse)
    secret = blocking(AsyncSettlements.secret)
    proof = blocking(AsyncSettlements.proof)
    address = blocking(AsyncSettlements.address)
    set_address = blocking(AsyncSettlements.set_address)


class Quotas(Facade[AsyncQuotas]):
    """Limits and usage of names (`client.quotas`)."""

    list = iterating(AsyncQuotas.list)
    show = blocking(AsyncQuotas.show)
    set = blocking(AsyncQuotas.set)


class Registry(Facade[AsyncRegistry]):
    """The registered services of a coordinator (`client.registry`)."""

    list = iterating(AsyncRegistry.list)
    show = blocking(AsyncRegistry.show)
    versions = iterating(AsyncRegistry.versions)
    register = blocking(AsyncRegistry.register)
    revise = blocking(AsyncRegistry.revise)
    retire = blocking(AsyncRegistry.retire)


class Webhooks(Facade[AsyncWebhooks]):
    """URLs that are told of jobs, miners and faults (`client.webhooks`)."""

    create = blocking(AsyncWebhooks.create)
    list = iterating(AsyncWebhooks.list)
    show = blocking(AsyncWebhooks.show)
    change = blocking(AsyncWebhooks.change)
    remove = blocking(AsyncWebhooks.remove)
    secret = blocking(AsyncWebhooks.secret)
    rotate = blocking(AsyncWebhooks.rotate)
    test = blocking(AsyncWebhooks.test)
    replay = blocking(AsyncWebhooks.replay)
    deliveries = iterating(AsyncWebhooks.deliveries)
    delivery = blocking(AsyncWebhooks.delivery)


class Coordinator(Facade[AsyncCoordinator]):
    """A client of one coordinator. Use it with `with`, or call `close()`; any thread may use it.

    Every method raises `CoordinatorError` and nothing else: `Unreachable` if no answer came, a kind of
    `RequestRefused` if the coordinator refused. A read shows every earlier write of the same client.
    Progress callbacks run on another thread.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        amqp_url: str | None = None,
        coordinator_public_key: str | None = None,
        hmac_secret: str | None = None,
        timeout: float = ANSWER_TIMEOUT_S,
        tries: int = TRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See AsyncCoordinator."""
        inner = AsyncCoordinator(
            url,
            api_key,
            amqp_url=amqp_url,
            coordinator_public_key=coordinator_public_key,
            hmac_secret=hmac_secret,
            timeout=timeout,
            tries=tries,
            transport=transport,
        )
        super().__init__(LoopThread(), inner)

    submit = blocking(AsyncCoordinator.submit, Job)
    submit_many = blocking(AsyncCoordinator.submit_many, _jobs)
    run = blocking(AsyncCoordinator.run)
    jobs = iterating(AsyncCoordinator.jobs)
    erase = iterating(AsyncCoordinator.erase)
    upload = blocking(AsyncCoordinator.upload)
    services = iterating(AsyncCoordinator.services)
    service = blocking(AsyncCoordinator.service)
    miners = iterating(AsyncCoordinator.miners)
    miner = blocking(AsyncCoordinator.miner)
    miner_match = blocking(AsyncCoordinator.miner_match)
    drain = blocking(AsyncCoordinator.drain)
    quarantine = blocking(AsyncCoordinator.quarantine)
    release = blocking(AsyncCoordinator.release)
    raise_alarm = blocking(AsyncCoordinator.raise_alarm)
    health = blocking(AsyncCoordinator.health)
    health_report = blocking(AsyncCoordinator.health_report)
    stats = blocking(AsyncCoordinator.stats)
    all_jobs = iterating(AsyncCoordinator.all_jobs)

    @property
    def registry(self) -> Registry:
        """The registry, typed; admins change it."""
        return Registry(self._thread, self._inner.registry)

    @property
    def keys(self) -> Keys:
        """API keys, for admins."""
        return Keys(self._thread, self._inner.keys)

    @property
    def webhooks(self) -> Webhooks:
        """URLs that the coordinator tells of jobs, miners and faults."""
        return Webhooks(self._thread, self._inner.webhooks)

    @property
    def batches(self) -> Batches:
        """Searches for jobs, and bulk cancel and submit-again on all that match."""
        return Batches(self._thread, self._inner.batches)

    @property
    def accounts(self) -> Accounts:
        """Money: one's own for everybody, all accounts for admins; and quotes."""
        return Accounts(self._thread, self._inner.accounts)

    @property
    def settlements(self) -> Settlements:
        """Batches of payouts: one's own for everybody, all of them for admins."""
        return Settlements(self._thread, self._inner.settlements)

    @property
    def quotas(self) -> Quotas:
        """Limits and usage of names: of all for admins, of its own for everybody."""
        return Quotas(self._thread, self._inner.quotas)

    def job(self, job_id: str) -> Job:
        """A handle on a job by its id; sends no request."""
        return Job(self._thread, self._inner.job(job_id))

    def close(self) -> None:
        """Close the connections and end the thread. May be called twice."""
        if not self._thread.closed:
            self._thread.run(self._inner.close())
            self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
