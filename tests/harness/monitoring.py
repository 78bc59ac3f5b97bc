"""The product's Prometheus configuration, rules and dashboards, with a test's targets and no waits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from coordinator.dev.servers import Prometheus
from tests.harness.waiting import eventually

MONITORING = Path(__file__).resolve().parents[2] / "docker" / "monitoring"
INTERVAL = "250ms"
WINDOW = "8s"
"""In place of windows of minutes and hours: many scrapes of the test, and soon over."""
_WINDOWS = re.compile(r"\[(\$__rate_interval|\d+[smhd])\]")
_COMPARISON = re.compile(r"(==|!=|>=|<=|>|<)(?!\s*bool)")
FIRES_SECONDS = 30.0


def rules() -> Iterator[dict[str, Any]]:
    """All rules, of all files."""
    for file in sorted((MONITORING / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of rules and dashboards, with its place."""
    for rule in rules():
        yield f"rule {rule.get('alert') or rule['record']}", rule["expr"]
    for file in sorted((MONITORING / "grafana" / "dashboards").glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        for panel in document["panels"]:
            for target in panel.get("targets", ()):
                yield f"{document['title']}, {panel['title']}", target["expr"]


def shortened(expression: str) -> str:
    """The expression over the test's window."""
    return _WINDOWS.sub(f"[{WINDOW}]", expression)


def as_figures(expression: str) -> str:
    """A condition as a figure, 0 or 1: Prometheus then shows what is compared, whether it holds or not."""
    outside = re.split(r"(\{[^}]*\})", shortened(expression))  # the matchers of labels have signs, too
    return "".join(part if part.startswith("{") else _COMPARISON.sub(r"\1 bool", part) for part in outside)


class Monitoring:
    """A Prometheus with the product's files. `limits` replaces thresholds by their names."""

    def __init__(
        self, folder: Path, targets: Sequence[str], key: str, limits: Mapping[str, float] | None = None
    ) -> None:
        """`targets`: URLs of coordinators; `key`: an admin's."""
        folder.mkdir(parents=True)
        (folder / "key").write_text(key)
        configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
        configuration["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
        [scrape] = configuration["scrape_configs"]
        scrape["authorization"]["credentials_file"] = str(folder / "key")
        scrape["static_configs"] = [{"targets": [url.removeprefix("http://") for url in targets]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        (folder / "rules").mkdir()
        given = dict(limits or {})
        for file in (MONITORING / "rules").glob("*.yml"):
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
            for group in document["groups"]:
                for rule in group["rules"]:
                    rule.pop("for", None)  # promtool's tests hold these times, with a clock of their own
                    limit = given.pop(rule.get("record", ""), None)
                    rule["expr"] = shortened(rule["expr"]) if limit is None else f"vector({limit})"
            (folder / "rules" / file.name).write_text(yaml.safe_dump(document))
        assert {} == given
        self.server = Prometheus(folder / "prometheus.yml")

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    async def fires(self, alert: str, timeout: float = FIRES_SECONDS) -> None:
        """Until this alert fires."""
        await eventually(lambda: alert in self.server.firing(), f"{alert} fires", timeout)

    async def clears(self, alert: str, timeout: float = FIRES_SECONDS) -> None:
        """Until this alert does not fire any more."""
        await eventually(lambda: alert not in self.server.firing(), f"{alert} clears", timeout)
