"""Rules and dashboards on a real Prometheus that scrapes a coordinator at work."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from coordinator.dev.dashboards.grafana import DASHBOARDS, FOLDER, text_of
from coordinator.dev.servers import PrometheusRefused
from coordinator.dev.servers.prometheus import find_program
from tests.harness.executor import SERVICE
from tests.harness.monitoring import MONITORING, Monitoring, as_figures, expressions, rules
from tests.harness.stage import ROOT, Stage
from tests.harness.waiting import eventually

ROOT_FOLDER = MONITORING.parents[1]


def promtool(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_program("promtool"), *arguments], input=text, capture_output=True, text=True, timeout=60
    )


def test_the_dashboards_are_those_of_the_code() -> None:
    """`python -m coordinator.dev.dashboards` has been run since the last change."""
    files = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT_FOLDER / FOLDER).glob("*.json")}
    assert {name: text_of(dashboard) for name, dashboard in DASHBOARDS.items()} == files


def test_the_rules_hold_their_times() -> None:
    """promtool's own tests, by a clock of theirs: a short fault alarms nobody, a long one does."""
    ran = promtool("test", "rules", MONITORING / "tests" / "coordinator.yml")
    assert (0, "") == (ran.returncode, ran.stderr), ran.stdout


def test_every_alert_says_what_to_do() -> None:
    """Name, severity, one sentence on what is wrong and one on the next step."""
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert {"summary", "action"} == set(rule["annotations"])
            assert rule["alert"].startswith("Coordinator")


async def test_every_expression_returns_data(tmp_path: Path, database_url: str, amqp_url: str) -> None:
    """Each query of each rule and panel finds series, on a coordinator with work, failures and refusals."""
    with Stage(tmp_path, database_url=database_url, amqp_url=amqp_url) as stage:
        stage.coordinator()
        await stage.ready()
        await stage.rehearse()
        for rig in ("rig1", "rig2"):
            stage.miner(rig, concurrency=2)
        await stage.registered("rig1", "rig2")
        limits = {"coordinator:oldest_queued_job_seconds:limit": 600.0}
        with Monitoring(tmp_path / "monitoring", [stage.urls["main"]], ROOT, limits) as monitoring:
            async with stage.rpc() as rpc:
                working = asyncio.create_task(_work(stage, rpc))
                try:
                    await eventually(lambda: _silent(monitoring) == {}, "data for every expression", 60.0)
                except AssertionError:
                    assert {} == _silent(monitoring)
                finally:
                    working.cancel()
                    await asyncio.gather(working, return_exceptions=True)

        text = await asyncio.to_thread(_metrics, stage)
        linted = promtool("check", "metrics", text=text)
        assert (0, "") == (linted.returncode, linted.stdout + linted.stderr)
        families = list(text_string_to_metric_families(text))
        values = {v for family in families for s in family.samples for v in s.labels.values()}
        assert SERVICE in values
        jobs = set(stage.accepted)
        named = {v for v in values if v in ("alice", "bob", "root", "rig1", "rig2") or v in jobs}
        assert set() == named


def _silent(monitoring: Monitoring) -> dict[str, str]:
    """The expressions that return nothing, by their place."""
    silent = {}
    for place, expression in expressions():
        try:
            found = monitoring.server.query(as_figures(expression))
        except PrometheusRefused as error:
            silent[place] = f"{error}: {as_figures(expression)}"
        else:
            if not any(series["value"][1] != "NaN" for series in found):
                silent[place] = as_figures(expression)
    return silent


async def _work(stage: Stage, rpc: object) -> None:
    """Jobs that complete, fail and are refused, until it is cancelled."""
    number = 0
    async with stage.client() as alice:
        while True:
            number += 1
            payload = {"fail": "final"} if number % 5 == 0 else {"seconds": 0.02}
            job = await alice.submit(SERVICE, payload)
            stage.accepted.add(job.job_id)
            await alice.submit("checksum", {"text": f"{number}"})
            await asyncio.to_thread(_metrics, stage, "/v1/nothing")
            await asyncio.sleep(0.05)


def _metrics(stage: Stage, path: str = "/metrics") -> str:
    request = urllib.request.Request(f"{stage.urls['main']}{path}", headers={"X-Api-Key": ROOT})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError:
        return ""
