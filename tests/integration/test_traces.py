"""One trace for a job, from the client's span to the result, as a collector gets it from real processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from coordinator.telemetry import names
from tests.harness.executor import SERVICE, SPEC
from tests.harness.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.harness.stage import ALICE, ROOT, Stage
from tests.harness.waiting import eventually

Tree = dict[str, "Tree"]
PRIVATE = "text-of-the-client"
OFFER = "send coordinator.work:{profile}"
PROCESSING = "process coordinator.work:{profile}:work.{profile}"


def command(kind: str, *, amqp: bool) -> Tree:
    """A command's span, with that of its commit below it."""
    via_amqp = f"process coordinator.commands:{kind}:coordinator.commands [CONSUMER]"
    return {via_amqp if amqp else f"decide {kind} [INTERNAL]": {"commit [INTERNAL]": {}}}


def sent(kind: str, path: str, *, amqp: bool, error: str = "") -> Tree:
    """A command that a miner sends, and its arrival."""
    if amqp:
        return {f"send coordinator.commands:{kind} [PRODUCER]": command(kind, amqp=True)}
    if kind == "job.complete":  # with a poll, which is no part of the job
        return {"POST /v1/miners/poll [CLIENT]": command(kind, amqp=False)}
    route = f"POST /v1/miners/{{job_id}}/{path}"
    return {f"{route} [CLIENT]": {f"{route} [SERVER]": command(kind, amqp=False)}}


def attempt(number: int, miner: str, *, amqp: bool, fails: bool) -> Tree:
    """An offer, its claim, and what the miner did with it."""
    outcome = " !WILL_NOT" if fails else ""
    report = sent("job.fail", "fail", amqp=amqp) if fails else sent("job.complete", "result", amqp=amqp)
    work: Tree = {f"execute {SERVICE} [INTERNAL]{outcome}": {}, **report}
    claim = sent("job.start", "start", amqp=True) if amqp else command("job.start", amqp=False)
    name = f"{PROCESSING} [CONSUMER] {miner}" if amqp else f"attempt [INTERNAL] {miner}"
    below = {f"{name}{outcome}": {**claim, **work}} if amqp else {**claim, f"{name}{outcome}": work}
    return {f"{OFFER} [PRODUCER] {number}": below}


def tree_of(spans: list[ReceivedSpan], parent: str) -> Tree:
    """The spans below one, by what they are; of equal ones the last."""

    def label(span: ReceivedSpan) -> str:
        parts = [f"{span.name} [{span.kind}]"]
        if span.name.startswith("send coordinator.work"):
            parts.append(str(span.attributes[names.ATTEMPT]))
        if names.MINER_ID in span.attributes:
            parts.append(span.attributes[names.MINER_ID])
        if span.error is not None:
            parts.append(f"!{span.error}")
        return " ".join(parts)

    return {label(span): tree_of(spans, span.id) for span in spans if span.parent == parent}


@pytest.mark.parametrize(
    ("mode", "client"),
    [("embedded", "http"), ("standard", "amqp"), ("standard", "http"), ("standard", "sdk")],
)
async def test_one_trace_from_the_client_to_the_result(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    client: str,
) -> None:
    """A job that fails on one miner and completes on another is one trace, each span below its cause."""
    amqp = mode == "standard"
    urls = {name: request.getfixturevalue(name) for name in ("database_url", "amqp_url")} if amqp else {}
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    unsampled = secrets.token_hex(16)
    with OtlpReceiver() as receiver, Stage(tmp_path, **urls) as stage:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        stage.coordinator()
        await stage.ready()
        async with stage.client(ROOT) as root:
            await root.registry.register(SPEC)
        for name, manner in (("rig1", "fails"), ("rig2", "works")):
            stage.miner(name, transport="amqp" if amqp else "http", manner=manner)
        await stage.registered("rig1", "rig2")

        async def submit(traceparent: str) -> str:
            payload = {"seconds": 0.01, "note": PRIVATE}
            body = {"service": SERVICE, "payload": payload}
            if client == "sdk":
                # The program's own span, with the library that it uses for itself.
                context = SpanContext(
                    int(traceparent[3:35], 16), int(span, 16), False, TraceFlags(int(traceparent[-2:]))
                )
                with use_span(NonRecordingSpan(context)):
                    async with stage.client(amqp_url=stage.amqp_url) as sdk:
                        return (await sdk.submit(SERVICE, payload)).job_id
            if client == "amqp":
                async with stage.rpc() as rpc:
                    key = {"idempotency_key": f"{PRIVATE}-{traceparent[3:9]}"}
                    said = await rpc.call("job.submit", {**body, **key, "traceparent": traceparent})
                assert said["status"] == "accepted", said
                return str(said["job_id"])
            async with httpx.AsyncClient(base_url=stage.urls["main"], headers={"X-Api-Key": ALICE}) as alice:
                posted = await alice.post("/v1/jobs", json=body, headers={"traceparent": traceparent})
            assert posted.is_success, posted.text
            return str(posted.json()["job_id"])

        job_id = await submit(f"00-{trace}-{span}-01")
        await stage.ended([job_id])
        untraced = await submit(f"00-{unsampled}-{span}-00")
        await stage.ended([untraced])

        over_amqp = client in ("amqp", "sdk")
        submitted = command("job.submit", amqp=over_amqp)
        [own] = submitted.values()
        own |= attempt(1, "rig1", amqp=amqp, fails=True) | attempt(2, "rig2", amqp=amqp, fails=False)
        expected = submitted if over_amqp else {"POST /v1/jobs [SERVER]": submitted}
        with contextlib.suppress(AssertionError):  # the comparison below shows where they differ
            await eventually(lambda: tree_of(receiver.of_trace(trace), span) == expected, timeout=10.0)
        assert expected == tree_of(receiver.of_trace(trace), span)

        found = receiver.of_trace(trace)
        assert {s.schema for s in found} == {names.SCHEMA_URL}
        assert {s.program for s in found} == {"coordinator", "coordinator-miner"}
        ids = {s.attributes[names.JOB_ID] for s in found if names.JOB_ID in s.attributes}
        assert ids == {job_id}
        # The events have the same trace, so that the log, its lines and the spans are found by one id.
        events = stage.log.entries(job_id=job_id)
        assert {entry.metadata["traceparent"][3:35] for entry in events} == {trace}
        # What was not sampled is not there, and neither is anything that was sent.
        assert {s.trace for s in receiver.spans} == {trace}
        everything = b"".join(receiver.bodies)
        for secret in (PRIVATE, "alice", "secret-of"):
            assert secret.encode() not in everything


async def test_a_receiver_that_is_away_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at the endpoint: jobs are done as ever, and the process stops in time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with Stage(tmp_path) as stage:
        coordinator = stage.coordinator()
        await stage.ready()
        stage.miner("rig1", transport="http")
        async with stage.client() as alice:
            job = await alice.submit("checksum", {"text": "hello"})
            result = await job.result(timeout=30)
        assert hashlib.sha256(b"hello").hexdigest() == result.result["digests"][0]["digest"]
        assert 0 == coordinator.stop()


def test_off_loads_nothing() -> None:
    """A program that nobody asked for traces loads none of the library, and has no tracer."""
    program = (
        "import sys; from coordinator.telemetry import export, tracing; "
        "import coordinator.runtime.bootstrap, coordinator.edge.app, coordinator.miner.slots; "
        "export.start('coordinator')(); "
        "print(tracing.tracer(), [m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=bare
    )
    assert "None []\n" == ran.stdout


def test_a_wrong_variable_ends_the_start_with_its_name(tmp_path: Path) -> None:
    """A start says which variable it can't follow and what to do, and does not begin."""
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "zipkin", "DATA_DIR": str(tmp_path / "data")}
    ran = subprocess.run(
        [sys.executable, "-m", "coordinator", "dev", "--port", "0"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert 2 == ran.returncode
    assert "SETTINGS: invalid OTEL_TRACES_EXPORTER: use otlp or none" == ran.stderr.splitlines()[-2]
