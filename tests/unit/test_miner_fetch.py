"""A miner fetches files from real servers, honest ones and hostile ones, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coordinator.miner.blobs import HttpBlobs
from coordinator.miner.executors.errors import ExecutorError
from coordinator.miner.fetch import WebFiles
from coordinator.wire.backoff import Backoff

CONTENT = b"not media, but bytes\n" * 1000
LIMIT = 1 << 20
Requests = list[str]
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def answer(status: str = "200 OK", body: bytes = b"", **headers: str) -> bytes:
    named = {"Content-Length": str(len(body)), **{k.replace("_", "-"): v for k, v in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def serving(
    answers: dict[str, bytes | Handler], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, Requests]]:
    """A server that sends these bytes for these paths; its port, and the heads of the requests it got."""
    requests: Requests = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            requests.append(head)
            given = answers[head.split()[1]]
            if isinstance(given, bytes):
                writer.write(given)
                await writer.drain()
            else:
                await given(head, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()


def web(port: int, **options: float) -> WebFiles:
    return WebFiles({f"127.0.0.1:{port}"}, **options)  # type: ignore[arg-type]


def named(*addresses: str, host: str = "files.example") -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that knows one name, and gives these answers, one after another."""
    waiting = list(addresses)

    async def resolve(asked: str, port: int) -> Sequence[str]:
        if asked == host:
            return waiting.pop(0).split()
        return [asked]

    return resolve


async def failure(files: WebFiles, url: str, to: Path, max_bytes: int = LIMIT) -> tuple[str, bool]:
    with pytest.raises(ExecutorError) as failed:
        await files.fetch(url, to, max_bytes)
    assert "127.0.0.1" not in failed.value.detail
    return failed.value.code, failed.value.retryable


async def test_a_file_is_fetched(tmp_path: Path) -> None:
    """The body becomes the file, exactly; the server is asked plainly, with nothing of the miner's."""
    async with serving({"/a%20b?c=1": answer(body=CONTENT)}) as (port, requests):
        await web(port).fetch(f"http://127.0.0.1:{port}/a%20b?c=1#part", tmp_path / "file", LIMIT)

    assert CONTENT == (tmp_path / "file").read_bytes()
    [head] = requests
    assert head.startswith("GET /a%20b?c=1 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}\r\n" in head
    assert "Accept-Encoding: identity\r\n" in head
    assert "key" not in head.lower()


async def test_redirects_are_followed(tmp_path: Path) -> None:
    """Relative ones too, and no more than five."""
    hops = {f"/{n}": answer("302 Found", Location=f"/{n + 1}") for n in range(1, 7)}
    hops["/5"] = answer("307 Temporary Redirect", Location="file")
    async with serving({**hops, "/file": answer(body=CONTENT)}) as (port, _):
        await web(port).fetch(f"http://127.0.0.1:{port}/1", tmp_path / "file", LIMIT)

        hops["/5"] = answer("302 Found", Location="/1")

    assert CONTENT == (tmp_path / "file").read_bytes()
    async with serving({**hops}) as (port, requests):
        assert ("DOWNLOAD_FAILED", False) == await failure(
            web(port), f"http://127.0.0.1:{port}/1", tmp_path / "other"
        )
    assert len(requests) == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{other}/secret",
        "http://localhost:{other}/secret",
        "http://0x7f.1:{other}/secret",
        "//[::ffff:127.0.0.1]:{other}/secret",
        "file:///etc/passwd",
        "ftp://example.com/a",
        "data:text/plain,secret",
        "http://user@127.0.0.1:{port}/file",
        "http://[1",
        "",
    ],
)
async def test_a_redirect_inwards_is_refused(tmp_path: Path, location: str) -> None:
    """A server of the internet can't send the miner to its own network, to a file, or to another scheme."""
    async with serving({"/secret": answer(body=b"secret")}) as (other, asked):
        answers: dict[str, bytes | Handler] = {}
        async with serving(answers) as (port, _):
            answers["/"] = answer("302 Found", Location=location.format(other=other, port=port))
            code, retryable = await failure(web(port), f"http://127.0.0.1:{port}/", tmp_path / "file")

    assert (code, retryable) in [("UNSAFE_URL", False), ("DOWNLOAD_FAILED", False)]
    assert asked == []


@pytest.mark.parametrize(
    "addresses",
    [
        "127.0.0.1",
        "10.0.0.1",
        "93.184.216.34 127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "fe80::1%lo",
    ],
)
async def test_a_name_that_leads_inwards_is_refused(tmp_path: Path, addresses: str) -> None:
    """One address that is not public among those of a name is enough, and nothing is connected to."""
    async with serving({"/": answer(body=b"secret")}) as (port, requests):
        files = WebFiles(resolve=named(addresses))

        assert ("UNSAFE_URL", False) == await failure(files, f"http://files.example:{port}/", tmp_path / "f")
    assert requests == []


async def test_a_name_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at is what is connected to, wherever the name leads a moment later."""
    connected: list[str] = []

    async def connect(self: object, host: str, port: int, *_: object) -> object:
        import httpcore

        connected.append(host)
        raise httpcore.ConnectError("nobody there")

    monkeypatch.setattr("httpcore.AnyIOBackend.connect_tcp", connect)
    files = WebFiles(resolve=named("93.184.216.34 93.184.216.35", "127.0.0.1"))
    with pytest.raises(Exception, match="ConnectError"):
        await files.fetch("http://files.example/", tmp_path / "file", LIMIT)

    assert ["93.184.216.34", "93.184.216.35"] == connected


async def test_a_file_too_large_is_cut_off(tmp_path: Path) -> None:
    """Whether its length is told, or it only never ends."""

    async def endless(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    async with serving({"/told": answer(Content_Length="9999999"), "/endless": endless}) as (port, _):
        for path in ("told", "endless"):
            found = await failure(web(port), f"http://127.0.0.1:{port}/{path}", tmp_path / path)
            assert found == ("INPUT_TOO_LARGE", False)


async def test_nothing_is_decompressed(tmp_path: Path) -> None:
    """A server that compresses unasked is refused, so that a small answer is never a large file."""
    bomb = gzip.compress(bytes(10 * LIMIT))
    async with serving({"/": answer(body=bomb, Content_Encoding="gzip")}) as (port, _):
        assert ("DOWNLOAD_FAILED", False) == await failure(
            web(port), f"http://127.0.0.1:{port}/", tmp_path / "file"
        )


@pytest.mark.parametrize(
    "status", ["204 No Content", "206 Partial Content", "401 Unauthorized", "404 Not Found"]
)
async def test_what_is_not_there_fails_for_good(tmp_path: Path, status: str) -> None:
    """Another attempt would find the same."""
    async with serving({"/": answer(status)}) as (port, _):
        assert ("DOWNLOAD_FAILED", False) == await failure(
            web(port), f"http://127.0.0.1:{port}/", tmp_path / "file"
        )


async def test_a_server_that_drips_is_left(tmp_path: Path) -> None:
    """However little it sends at a time, the whole file has its time, and no more."""

    async def drip(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving({"/": drip}) as (port, _):
        assert ("DOWNLOAD_FAILED", False) == await failure(
            web(port, fetch_seconds=0.3), f"http://127.0.0.1:{port}/", tmp_path / "file"
        )


async def test_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    """A server in trouble, an answer cut short, no answer: the miner asks again, and leaves no part."""
    tries = [
        answer("503 Service Unavailable"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        answer(body=CONTENT),
        *[b"nonsense\r\n\r\n"] * 3,
    ]

    async def next_one(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(tries.pop(0))
        await writer.drain()

    async with serving({"/": next_one}) as (port, _):
        blobs = HttpBlobs("http://127.0.0.1:9", "a:b", web=web(port), backoff=Backoff(first_seconds=0.001))
        access = blobs.of_job("job")
        await access.download(f"http://127.0.0.1:{port}/", tmp_path / "file", max_bytes=LIMIT)

        with pytest.raises(ExecutorError) as failed:
            await access.download(f"http://127.0.0.1:{port}/", tmp_path / "other", max_bytes=LIMIT)
        await blobs.close()

    assert hashlib.sha256(CONTENT).digest() == hashlib.sha256((tmp_path / "file").read_bytes()).digest()
    assert ("DOWNLOAD_FAILED", True) == (failed.value.code, failed.value.retryable)
    assert not (tmp_path / "other").exists()


def certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server with this name shows, and what trusts it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_tls_proves_the_name_and_not_the_address(tmp_path: Path) -> None:
    """The connection goes to a checked address; server name, certificate and Host are those of the URL."""
    server, trusting = certificate("files.example", tmp_path)
    asked: list[str | None] = []
    server.sni_callback = lambda _, name, __: asked.append(name)
    async with serving({"/": answer(body=CONTENT)}, server) as (port, requests):
        allowed = {f"files.example:{port}", f"other.example:{port}"}
        files = WebFiles(allowed, resolve=named("127.0.0.1"), tls=trusting)
        await files.fetch(f"https://files.example:{port}/", tmp_path / "file", LIMIT)

        stranger = WebFiles(allowed, resolve=named("127.0.0.1", host="other.example"), tls=trusting)
        with pytest.raises(Exception, match="ConnectError"):
            await stranger.fetch(f"https://other.example:{port}/", tmp_path / "other", LIMIT)

    assert CONTENT == (tmp_path / "file").read_bytes()
    assert asked == ["files.example", "other.example"]
    assert f"Host: files.example:{port}\r\n" in requests[0]


async def test_https_is_not_left_for_http(tmp_path: Path) -> None:
    """A client who asked for a proven server does not get another's bytes."""
    server, trusting = certificate("files.example", tmp_path)
    async with serving({"/": answer(body=b"forged")}) as (plain, asked):
        redirect = answer("301 Moved Permanently", Location=f"http://127.0.0.1:{plain}/")
        async with serving({"/": redirect}, server) as (port, _):
            files = WebFiles(
                {f"files.example:{port}", f"127.0.0.1:{plain}"}, resolve=named("127.0.0.1"), tls=trusting
            )
            assert ("UNSAFE_URL", False) == await failure(
                files, f"https://files.example:{port}/", tmp_path / "file"
            )
    assert asked == []
