"""HTTPS of our own server: a certificate and its key from files, read again when they change."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

from coordinator.runtime.settings import BadSettings, Settings

LOOK_SECONDS = 5.0

log = structlog.get_logger("tls")


class Certificate:
    """The certificate (with its chain) and the key, in PEM. New connections get what was read last."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Raises BadSettings for files that can't be used."""
        self._files = (cert_file, key_file)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._state()
        try:
            self._load()
        except OSError as error:
            raise BadSettings(f"TLS_CERT_FILE, TLS_KEY_FILE: {_reason(error)}") from None

    def _load(self) -> None:
        # On a context of its own first: a pair that does not fit would leave the one in use without a key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files, password=_no_password)
        self.context.load_cert_chain(*self._files, password=_no_password)

    async def watch(self) -> None:
        """Read the files again whenever they change; a pair that can't be used is told, and not used."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.reload_if_changed)

    def reload_if_changed(self) -> bool:
        """Whether the files were read again."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            self._load()
        except OSError as error:
            log.error("the new certificate is not used", reason=_reason(error))
            return False
        log.info("the certificate was read again")
        return True

    def _state(self) -> list[tuple[int, int, int] | None]:
        """What tells a changed file, also behind a link that points elsewhere now."""
        found: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                stat = file.stat()
            except OSError:
                found.append(None)  # it is being replaced
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found


def _no_password() -> str:
    # Without this, OpenSSL would ask at the terminal, and the start would wait for ever.
    raise OSError("the key is encrypted: give one without a password")


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not a certificate and its key in PEM ({error.reason or error})"
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate of the settings; None for plain HTTP. Raises BadSettings."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate(settings.tls_cert_file, settings.tls_key_file)
