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

    Credentials for S3 come from where boto3 looks for them, never from the setting. Raises ValueError for
    settings that name no store.
    """
    if setting.startswith("s3://"):
        # boto3 takes a second to import and is optional: only those who store on S3 need it.
        from coordinator.blobs.s3 import S3BlobStore

        return S3BlobStore.from_url(setting)
    if not setting or "://" in setting:
        raise ValueError("expected a directory, or s3://bucket/prefix")
    from coordinator.blobs.local import LocalBlobStore

    return LocalBlobStore(Path(setting))
