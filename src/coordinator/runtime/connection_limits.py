"""The most connections of a process, by its settings and the descriptors that it may have."""

from __future__ import annotations

import structlog

from coordinator.edge.state.open_connections import ConnectionLimits
from coordinator.runtime.settings import Settings

DEFAULT_CONNECTIONS = 4096
DESCRIPTORS_OF_A_CONNECTION = 2  # with the file of an upload or a download
RESERVED_DESCRIPTORS = 192  # for the database, the broker, files, threads and connections that are refused
FEWEST_RESERVED = 96  # where a quarter of all is less than the reserve
FEWEST_CONNECTIONS = 16

log = structlog.get_logger(__name__)


def connection_limits(settings: Settings) -> ConnectionLimits:
    """The limits of this process. A limit that the settings leave open is a share of all connections."""
    total = settings.max_connections
    possible = _possible(_descriptors())
    if total is None:
        total = min(DEFAULT_CONNECTIONS, possible)
    elif not 0 < total <= possible:
        if total:
            log.warning("MAX_CONNECTIONS is lowered: raise the limit of open files", possible=possible)
        total = possible
    return ConnectionLimits(
        total=total,
        per_address=_given(settings.max_connections_per_address, total // 2),
        per_key=_given(settings.max_connections_per_key, total // 4),
        streams=_given(settings.max_streams, total // 2),
        streams_per_key=settings.max_streams_per_key,
    )


def allow_connections(wanted: int | None) -> None:
    """Raise this process's limit of descriptors for so many connections, as far as it may."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = DEFAULT_CONNECTIONS if wanted is None else wanted
    needed = connections * DESCRIPTORS_OF_A_CONNECTION + RESERVED_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _descriptors() -> int | None:
    """The descriptors that this process may have; None for any number."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _possible(descriptors: int | None) -> int:
    if descriptors is None:
        return 1_000_000
    reserved = max(FEWEST_RESERVED, min(RESERVED_DESCRIPTORS, descriptors // 4))
    return max(FEWEST_CONNECTIONS, (descriptors - reserved) // DESCRIPTORS_OF_A_CONNECTION)


def _given(limit: int | None, otherwise: int) -> int:
    return otherwise if limit is None else limit
