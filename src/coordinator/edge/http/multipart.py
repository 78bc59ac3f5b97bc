"""Bodies of `multipart/form-data`: texts, and files that go to the blob store while they arrive.

No file is spooled to disk or held in memory: its bytes are passed on as they arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from coordinator.blobs import BlobTooLarge
from coordinator.crypto.refs import blob_ref
from coordinator.domain.errors import Code, Refusal
from coordinator.domain.messages import Principal
from coordinator.edge.context import EdgeContext
from coordinator.edge.http.bodies import declared_length, incoming
from coordinator.edge.http.problems import Problem
from coordinator.edge.http.uploads import store_upload
from coordinator.wire.limits import MAX_BODY_BYTES

MEDIA_TYPE: Final = "multipart/form-data"
MAX_PARTS: Final = 100
MAX_NAME_LENGTH: Final = 100


def is_form(request: Request) -> bool:
    """Whether the body is a form."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == MEDIA_TYPE


async def read_form(
    request: Request, context: EdgeContext, principal: Principal, file_field: str
) -> dict[str, list[str]]:
    """The texts of a form by name. Its one file is stored as the principal's; its text is the reference.

    The file is the part named `file_field`, or `file`; this part may also be a text, such as a URL.
    Raises Problem, Refusal, BlobError.
    """
    limit = context.settings.max_blob_bytes
    if declared_length(request) > limit + MAX_BODY_BYTES:
        raise BlobTooLarge
    form = _Form(request, context)
    found: dict[str, list[str]] = {}
    texts = parts = 0
    async for part in form.parts():
        parts += 1
        if parts > MAX_PARTS:
            raise Refusal(Code.INVALID_PAYLOAD, f"the form has more than {MAX_PARTS} parts")
        name = file_field if part.name == "file" else part.name
        if part.is_file:
            if name != file_field or name in found:
                raise Refusal(Code.INVALID_PAYLOAD, f"send only one file, in the part {file_field}")
            info = await store_upload(context, principal, form.content())
            found[name] = [blob_ref(info.sha256)]
            continue
        text = bytearray()
        async for piece in form.content():
            text += piece
            texts += len(piece)
            if texts > MAX_BODY_BYTES:
                raise Problem(Code.TOO_LARGE, f"the form's texts are larger than {MAX_BODY_BYTES} bytes")
        if name == file_field and name in found:
            raise Refusal(Code.INVALID_PAYLOAD, f"{file_field}: sent more than once")
        found.setdefault(name, []).append(_text(bytes(text), name))
    return found


class _Part:
    """A part: its headers, its name, and whether it is a file."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.name = ""
        self.is_file = False

    def finish(self) -> None:
        kind, options = parse_options_header(self.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not name:
            raise _not_a_form()
        self.name = _text(name, "name")
        if len(self.name) > MAX_NAME_LENGTH:
            raise _not_a_form()
        self.is_file = b"filename" in options or b"filename*" in options


class _Form:
    """The parts of one body, one after another: take a part, read its `content`, take the next."""

    def __init__(self, request: Request, context: EdgeContext) -> None:
        _, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise _not_a_form()
        self._chunks = incoming(request, context.limits)
        self._events: deque[_Part | bytes | None] = deque()
        """The beginning of a part, bytes of it, or None for its end."""
        self._part = _Part()
        self._header = [bytearray(), bytearray()]
        self._whole = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_part_data": lambda data, start, end: self._events.append(data[start:end]),
                    "on_part_end": lambda: self._events.append(None),
                    "on_header_field": lambda data, start, end: self._grow(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._grow(1, data[start:end]),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_end": self._end,
                },
            )
        except FormParserError:
            raise _not_a_form() from None

    async def parts(self) -> AsyncIterator[_Part]:
        while (event := await self._next()) is not None or not self._whole or self._events:
            if isinstance(event, _Part):
                yield event

    async def content(self) -> AsyncIterator[bytes]:
        """The bytes of the last part that `parts` gave."""
        while isinstance(event := await self._next(), bytes):
            yield event

    async def _next(self) -> _Part | bytes | None:
        while not self._events:
            if self._whole:
                return None
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise Refusal(Code.INVALID_PAYLOAD, "the form ends before its last part does")
            try:
                self._parser.write(chunk)
            except FormParserError:
                raise _not_a_form() from None
        return self._events.popleft()

    # --- callbacks of the parser ---------------------------------------------------------------------------
    def _begin(self) -> None:
        self._part = _Part()

    def _grow(self, side: int, data: bytes) -> None:
        self._header[side] += data

    def _header_end(self) -> None:
        field, value = self._header
        self._part.headers[bytes(field).lower()] = bytes(value)
        self._header = [bytearray(), bytearray()]

    def _headers_finished(self) -> None:
        self._part.finish()
        self._events.append(self._part)

    def _end(self) -> None:
        self._whole = True


def _text(raw: bytes, name: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Refusal(Code.INVALID_PAYLOAD, f"{name}: should be UTF-8") from None
    if "\0" in text:
        raise Refusal(Code.INVALID_PAYLOAD, f"{name}: has a NUL character")
    return text


def _not_a_form() -> Refusal:
    return Refusal(Code.INVALID_PAYLOAD, "the body is not well-formed multipart/form-data")
