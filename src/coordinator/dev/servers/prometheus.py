"""A private Prometheus, started from this machine's program, for tests of rules and dashboards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from .node import STOP_TIMEOUT_S, LocalServer, ServersMissing
from .processes import free_port

ANSWER_TIMEOUT_S = 10
INSTALL_HINT = (
    "Prometheus is not installed here. Run `make servers` (as root on Debian or Ubuntu it installs "
    "prometheus with apt), or put the programs prometheus and promtool of version 2.40 or newer on PATH."
)


class PrometheusRefused(Exception):
    """Prometheus could not evaluate an expression. The text is its own."""


class Prometheus(LocalServer):
    """A server of its own, on a port of loopback. `configuration` is its file, with the rules beside it."""

    name = "prometheus"

    def __init__(self, configuration: Path, directory: Path | None = None) -> None:
        super().__init__(directory)
        self.configuration = configuration
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now: `metric` has the labels, `value` the moment and the value.

        Raises PrometheusRefused.
        """
        found = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        if found["resultType"] != "vector":
            return [{"metric": {}, "value": found["result"]}]
        series: list[dict[str, Any]] = found["result"]
        return series

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self._get("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
                data: dict[str, Any] = json.load(answer)["data"]
                return data
        except urllib.error.HTTPError as error:
            raise PrometheusRefused(json.load(error).get("error", str(error))) from None

    def _launch(self) -> None:
        server = self._spawn(
            [
                str(find_program("prometheus")),
                f"--config.file={self.configuration}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--storage.tsdb.retention.time=1h",
                "--log.level=warn",
            ],
            {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "TZ": "UTC"},
        )
        self._wait_ready(server, self._is_ready)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=ANSWER_TIMEOUT_S):  # noqa: S310
                return True
        except OSError:
            return False

    def _shut_down(self) -> None:
        (server,) = self._processes
        server.send_signal(signal.SIGTERM)
        server.wait(STOP_TIMEOUT_S)


def find_program(name: str) -> Path:
    """The path of `prometheus` or `promtool`. Raises ServersMissing."""
    for place in (
        shutil.which(name),
        f"/usr/bin/{name}",
        f"/usr/local/bin/{name}",
        f"/opt/homebrew/bin/{name}",
    ):
        if place and Path(place).exists():
            return Path(place)
    raise ServersMissing(INSTALL_HINT)
