"""Writes the dashboards, from the folder of the checkout."""

from __future__ import annotations

import sys

from coordinator.dev.dashboards.grafana import DASHBOARDS, FOLDER, text_of


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, dashboard in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(text_of(dashboard), encoding="utf-8")
    sys.stdout.write(f"{len(DASHBOARDS)} dashboards in {FOLDER}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
