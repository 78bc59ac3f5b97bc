"""Blobs on S3, or on any server with its protocol, through boto3 in threads."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from coordinator.blobs.port import (
    PIECE_BYTES,
    BlobInfo,
    BlobNotFound,
    BlobStoreUnavailable,
    DigestMismatch,
    check_digest,
    in_pieces,
    in_thread,
    is_blob_name,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
SPOOL_BYTES = 8 * 2**20
"""Uploads up to this size stay in memory until their digest is known; larger ones wait on disk."""
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})


class S3BlobStore:
    """A BlobStore over a bucket: object `<prefix>/<sha256>`. Digests are checked before anything is sent."""

    def __init__(self, client: "S3Client", bucket: str, prefix: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A store from `s3://bucket/prefix?endpoint_url=…&region=…`; raises ValueError for anything else."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        endpoint, region = options.pop("endpoint_url", None), options.pop("region", None)
        if parts.scheme != "s3" or not parts.netloc or parts.fragment or "@" in parts.netloc:
            raise ValueError("expected s3://bucket/prefix?endpoint_url=…&region=…, without credentials")
        if options:
            raise ValueError(f"unknown options for an S3 blob store: {', '.join(sorted(options))}")
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ValueError("endpoint_url must start with http:// or https://")
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            retries={"mode": "standard", "max_attempts": 3},
            # Servers other than Amazon's rarely have one host name per bucket.
            s3={"addressing_style": "path" if endpoint else "auto"},
        )
        client = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
        return cls(client, parts.netloc, parts.path)

    async def put(
        self, stream: AsyncIterator[bytes], *, expected_sha256: str | None, max_bytes: int
    ) -> BlobInfo:
        """See BlobStore.put."""
        digest, size = hashlib.sha256(), 0
        with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:

            def write(piece: bytes) -> None:
                spool.write(piece)
                digest.update(piece)

            async for piece in in_pieces(stream, max_bytes):
                size += len(piece)
                await in_thread(partial(write, piece))
            sha256 = digest.hexdigest()
            check_digest(sha256, expected_sha256)
            spool.seek(0)
            # S3 shows an object only when it is complete, and boto3 aborts a multipart upload that fails.
            await self._call(lambda: self._client.upload_fileobj(spool, self._bucket, self._key(sha256)))
        return BlobInfo(sha256, size)

    async def get(self, sha256: str) -> AsyncIterator[bytes]:
        """See BlobStore.get."""
        if not is_blob_name(sha256):
            raise BlobNotFound(f"no blob {sha256[:80]!r}")
        answer = await self._call(lambda: self._client.get_object(Bucket=self._bucket, Key=self._key(sha256)))
        body, digest = answer["Body"], hashlib.sha256()

        def read() -> bytes:
            piece: bytes = body.read(PIECE_BYTES)
            digest.update(piece)
            return piece

        try:
            while piece := await self._call(read):
                yield piece
        finally:
            body.close()
        if digest.hexdigest() != sha256:
            raise DigestMismatch(f"blob {sha256} is damaged: its content has another digest; upload it again")

    async def get_part(self, sha256: str, first: int, last: int) -> AsyncIterator[bytes]:
        """See BlobStore.get_part."""
        if not is_blob_name(sha256):
            raise BlobNotFound(f"no blob {sha256[:80]!r}")
        answer = await self._call(
            lambda: self._client.get_object(
                Bucket=self._bucket, Key=self._key(sha256), Range=f"bytes={first}-{last}"
            )
        )
        body = answer["Body"]
        try:
            while piece := await self._call(lambda: body.read(PIECE_BYTES)):
                yield piece
        finally:
            body.close()

    async def stat(self, sha256: str) -> BlobInfo | None:
        """See BlobStore.stat."""
        if not is_blob_name(sha256):
            return None
        try:
            answer = await self._call(
                lambda: self._client.head_object(Bucket=self._bucket, Key=self._key(sha256))
            )
        except BlobNotFound:
            return None
        return BlobInfo(sha256, answer["ContentLength"])

    async def delete(self, sha256: str) -> None:
        """See BlobStore.delete."""
        if is_blob_name(sha256):
            await self._call(lambda: self._client.delete_object(Bucket=self._bucket, Key=self._key(sha256)))

    async def delete_older(self, sha256: str, before: float) -> bool:
        """See BlobStore.delete_older."""
        if not is_blob_name(sha256):
            return True
        key = self._key(sha256)

        def remove() -> bool:
            stored = self._client.head_object(Bucket=self._bucket, Key=key)
            if stored["LastModified"].timestamp() >= before:
                return False
            self._client.delete_object(Bucket=self._bucket, Key=key)
            return True

        try:
            return await self._call(remove)
        except BlobNotFound:
            return True

    async def probe(self) -> None:
        """See BlobStore.probe: asks for an object that does not exist. A write would cost money each time."""
        with contextlib.suppress(BlobNotFound):
            await anext(
                self.get("0" * 64)
            )  # a HEAD request can't tell a missing bucket from a missing object

    def _key(self, sha256: str) -> str:
        return f"{self._prefix}{sha256}"

    async def _call(self, call: Callable[[], T]) -> T:
        """Call boto3 in a thread; its errors become BlobErrors."""
        try:
            return await in_thread(call)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _ABSENT:
                raise BlobNotFound("no such blob") from None
            raise BlobStoreUnavailable(f"S3 refused with {code}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise BlobStoreUnavailable(f"S3 cannot be used: {type(error).__name__}") from error
