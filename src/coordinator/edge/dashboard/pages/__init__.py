"""The dashboard's pages: a module for each, with what it shows and what its forms do."""

from __future__ import annotations

from typing import Final

from coordinator.edge.dashboard.pages import (
    admin,
    audit,
    batches,
    classes,
    downloads,
    files,
    job,
    jobs,
    log_in,
    miners,
    overview,
    services,
    webhooks,
)
from coordinator.edge.dashboard.pages.money import books, own

ROUTERS: Final = (
    overview.router,
    jobs.router,
    batches.router,
    downloads.router,
    job.router,
    miners.router,
    classes.router,
    services.router,
    own.router,
    books.router,
    webhooks.router,
    audit.router,
    admin.router,
    log_in.router,
    files.router,
)
"""In the order in which paths are tried."""
