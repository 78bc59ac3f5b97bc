"""Dashboards as the files that Grafana reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from coordinator.dev.dashboards.operations import OPERATIONS
from coordinator.dev.dashboards.panels import Dashboard, Panel
from coordinator.dev.dashboards.proof import PROOF
from coordinator.dev.dashboards.work import WORK

FOLDER: Final = Path("docker/monitoring/grafana/dashboards")
DATASOURCE: Final = {"type": "prometheus", "uid": "coordinator-prometheus"}
WIDTH: Final = 24
"""Columns of Grafana's grid."""
DASHBOARDS: Final = {"operations": OPERATIONS, "miners-and-work": WORK, "proof-and-figures": PROOF}
"""By the name of the file."""


def queries(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    """Every expression of a dashboard, with the title of its panel."""
    for _, panels in dashboard.rows:
        for panel in panels:
            for expression, _legend in panel.queries:
                yield panel.title, expression


def text_of(dashboard: Dashboard) -> str:
    """The file that Grafana reads."""
    panels: list[dict[str, Any]] = []
    top = 0
    for name, row in dashboard.rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": name,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": top},
            }
        )
        top += 1
        stats = all(panel.kind == "stat" for panel in row)
        columns, height = (len(row), 4) if stats else (min(len(row), 2), 8)
        for number, panel in enumerate(row):
            x, y = number % columns, number // columns
            place = {"h": height, "w": WIDTH // columns, "x": x * (WIDTH // columns), "y": top + y * height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
        top += height * -(-len(row) // columns)
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["coordinator"],
        "timezone": "browser",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": []},
        "annotations": {"list": []},
        "panels": panels,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any]
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    else:
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
        fill = {"fillOpacity": 30, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 10}
        defaults["custom"] = {"drawStyle": "line", "showPoints": "never", **fill}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
            }
            for number, (expression, legend) in enumerate(panel.queries)
        ],
    }
