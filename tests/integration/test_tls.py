"""TLS with a private certificate authority: our server, RabbitMQ and Postgres, each verified by its name."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.application.ports import LogUnavailable
from coordinator.broker.connection import BrokerUnreachable, connect
from coordinator.dev.servers import PostgresServer, RabbitMQServer
from coordinator.dev.servers.postgres import server_account
from coordinator.dev.servers.processes import free_port
from coordinator.runtime.process.tls import Certificate
from coordinator.runtime.settings import BadSettings
from coordinator.storage.migrate import migrate
from tests.harness.stage import ALICE, Stage
from tests.harness.waiting import eventually

DAY = timedelta(days=1)


class Authority:
    """A certificate authority whose certificates name 127.0.0.1 and localhost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"the authority {folder.name}")])
        made = self._builder(self._name, self._key)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file = folder / "ca.crt"
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self.file.chmod(0o644)

    def issue(self, name: str, *, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """A certificate and its key, in files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address)), x509.DNSName("localhost")])
        made = (
            self._builder(subject, key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        )
        cert_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        cert_file.chmod(0o644)
        key_file.chmod(0o600)
        return cert_file, key_file

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )


@pytest.fixture
def authority() -> Iterator[Authority]:
    """In a folder that the servers' accounts may enter."""
    folder = Path(tempfile.mkdtemp(prefix="coordinator-tls-"))
    folder.chmod(0o755)
    yield Authority(folder)
    shutil.rmtree(folder)


@pytest.fixture
def amqps_port(authority: Authority, rabbitmq: RabbitMQServer) -> int:
    """A TLS listener of the run's broker, for as long as the broker runs."""
    cert_file, key_file = authority.issue("rabbitmq")
    key_file.chmod(0o644)
    port = free_port()
    options = f'[{{cacertfile,"{authority.file}"}},{{certfile,"{cert_file}"}},{{keyfile,"{key_file}"}}]'
    rabbitmq.evaluate(f"rabbit_networking:start_ssl_listener({port}, {options}, 2)")
    return port


@pytest.fixture
def postgres_tls(authority: Authority, postgres: PostgresServer) -> Iterator[None]:
    """The run's database server with TLS, which it had not."""
    cert_file, key_file = authority.issue("postgres")
    account = server_account()
    if account is not None:
        shutil.chown(key_file, account)
    files = {"ssl_cert_file": cert_file, "ssl_key_file": key_file}
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for name, file in files.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{file}'".encode())
        connection.execute("ALTER SYSTEM SET ssl = on")
        connection.execute("SELECT pg_reload_conf()")
    yield
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for name in ("ssl", *files):
            connection.execute(f"ALTER SYSTEM RESET {name}".encode())
        connection.execute("SELECT pg_reload_conf()")


async def test_a_coordinator_whose_every_connection_is_verified(
    authority: Authority,
    amqps_port: int,
    postgres_tls: None,
    database_url: str,
    amqp_url: str,
    tmp_path: Path,
) -> None:
    """HTTPS, amqps and sslmode=verify-full; who knows another authority gets no connection."""
    parts = urlsplit(amqp_url)
    amqps = parts._replace(
        scheme="amqps",
        netloc=f"{parts.username}:{parts.password}@127.0.0.1:{amqps_port}",
        query=f"cafile={authority.file}",
    ).geturl()
    secure = f"{database_url}?sslmode=verify-full&sslrootcert={authority.file}"
    cert_file, key_file = authority.issue("server")
    other = Authority(_folder(authority, "other"))
    with Stage(
        tmp_path, database_url=secure, amqp_url=amqps, tls_cert_file=cert_file, tls_key_file=key_file
    ) as stage:
        stage.log.source = database_url
        stage.coordinator()
        url = stage.urls["main"].replace("http://", "https://")
        trusting = ssl.create_default_context(cafile=str(authority.file))

        async def ready() -> bool:
            async with httpx.AsyncClient(verify=trusting) as http:
                try:
                    answers = [await http.get(f"{url}/health/{a}") for a in ("startup", "live", "ready")]
                except httpx.TransportError:
                    return False
            return [200] * 3 == [answer.status_code for answer in answers]

        async def until_ready() -> None:
            for _ in range(300):
                if await ready():
                    return
            raise AssertionError(stage.processes[0].tail())

        await until_ready()
        with psycopg.connect(database_url) as connection:
            used = connection.execute(
                "SELECT DISTINCT ssl.ssl FROM pg_stat_ssl ssl JOIN pg_stat_activity USING (pid) "
                "WHERE application_name LIKE 'coordinator-%' AND datname = current_database()"
            ).fetchall()
        assert [(True,)] == used
        async with stage.rpc() as rpc:  # our SDK over amqps, with the authority of the URL
            answer = await rpc.call(
                "job.submit", {"service": "checksum", "payload": {"text": "x"}, "idempotency_key": "1"}
            )
        assert "accepted" == answer["status"]
        async with httpx.AsyncClient(verify=trusting, headers={"X-Api-Key": ALICE}) as http:
            assert "QUEUED" == (await http.get(f"{url}/v1/jobs/{answer['job_id']}")).json()["state"]
        for strangers in (ssl.create_default_context(cafile=str(other.file)), ssl.create_default_context()):
            async with httpx.AsyncClient(verify=strangers) as http:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await http.get(f"{url}/health")

        # A renewed certificate is in use without a restart.
        before = ssl.get_server_certificate(("127.0.0.1", urlsplit(url).port or 0))
        authority.issue("server")
        await eventually(
            lambda: ssl.get_server_certificate(("127.0.0.1", urlsplit(url).port or 0)) != before,
            "the new certificate",
            30,
        )
        assert await ready()

    # Servers that the authority does not know are refused, in words.
    strange = amqps.replace(f"cafile={authority.file}", f"cafile={other.file}")
    with pytest.raises(BrokerUnreachable, match="certificate verify failed"):
        await connect(strange, "stranger", start_timeout=0.1)
    with pytest.raises(LogUnavailable, match="certificate verify failed"):
        migrate(secure.replace(str(authority.file), str(other.file)))


def _folder(authority: Authority, name: str) -> Path:
    made = authority.folder / name
    made.mkdir(mode=0o755)
    return made


def test_a_certificate_that_can_not_be_used_is_refused(authority: Authority, tmp_path: Path) -> None:
    """A missing file, no key, and another certificate's key stop the start; a bad renewal is not used."""
    cert_file, key_file = authority.issue("server")
    _, other_key = authority.issue("other")
    nothing = tmp_path / "nothing"
    for files in ((nothing, key_file), (cert_file, cert_file), (cert_file, other_key)):
        with pytest.raises(BadSettings, match="TLS_CERT_FILE"):
            Certificate(*files)
    used = Certificate(cert_file, key_file)
    assert not used.reload_if_changed()
    key_file.write_bytes(other_key.read_bytes())
    assert not used.reload_if_changed()
    authority.issue("server")
    assert used.reload_if_changed()
    assert stat.S_IMODE(os.stat(key_file).st_mode) == 0o600
