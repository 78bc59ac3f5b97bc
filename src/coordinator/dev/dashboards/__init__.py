"""Grafana's dashboards: `python -m coordinator.dev.dashboards` writes them to docker/monitoring/grafana."""
