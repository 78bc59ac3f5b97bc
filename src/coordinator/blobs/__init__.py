"""Blobs: files too large for a message, stored and named by their SHA-256."""

from pathlib import Path

from coordinator.blobs.port import (
    BlobError,
    BlobInfo,
    BlobNotFound,
    BlobStore,
    BlobStoreUnavailable,
    BlobTooLarge,
    DigestMismatch,
)

__all__ = [
    "BlobError",
    "BlobInfo",
    "BlobNotFound",
    "BlobStore",
    "BlobStoreUnavailable",
    "BlobTooLarge",
    "DigestMismatch",
    "open_blob_store",
]


def open_blob_store(setting: str) -> BlobStore:
    """The store that `BLOB_STORE` names: a directory, or `s3://bucket/prefix?endpoint_url=…&region=…`.

    boto3 finds the credentials for S3 in its usual places, never in the setting. Raises ValueError for an
    invalid setting.
    """
    if setting.startswith("s3://"):
        # boto3 takes a second to import and is optional: only S3 needs it.
        from coordinator.blobs.s3 import S3BlobStore

        return S3BlobStore.from_url(setting)
    if not setting or "://" in setting:
        raise ValueError("expected a directory, or s3://bucket/prefix")
    from coordinator.blobs.local import LocalBlobStore

    return LocalBlobStore(Path(setting))
