"""An upload, from the network to a file on disk as it arrives: memory holds no more than a piece of it.

BentoML's own reading keeps the whole body in memory, answers 500 to a malformed form, and fetches the address that a *text* in
a file field names, from inside our network. Here a form is read by `python_multipart` (Starlette's parser too), a text in the
file field is refused, and nothing that a client claims of the bytes is believed. Beside a form, the bare file is taken as the
body (``curl --data-binary``), its fields then standing in the query. How many bytes may come is counted in `services.http`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, Self, cast

from _bentoml_sdk import IODescriptor
from pydantic import BaseModel
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from models.errors import InputError, shorten
from services.http import SlowClientError
from services.json_body import Model, WrongKindError, check_coding, checked
from services.workspace import disk_errors

_PIECE = 1024 * 1024  # bytes gathered before they are parsed and written, by a thread if they are not few
_SMALL = 128 * 1024  # bytes that take no longer than a thread takes to wake, whatever they are: below half a millisecond
_MOST_PARTS, _LONGEST_TEXT = 16, 1024


class MalformedFormError(InputError):
    """The body is not the multipart form that its header says it is."""

    code = "form_malformed"


class FileExpectedError(InputError):
    """No file where one is due: a text, an address, or nothing."""

    code = "file_expected"


@dataclass
class Upload:
    """What came.

    Attributes:
        path: the file's bytes.
        name: what the client calls the file, for display only; empty where it does not say.
        fields: the form's texts, over those of the query.
        queried: those of the query.
    """

    path: Path
    name: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    queried: dict[str, str] = field(default_factory=dict)

    def form(self, model: type[Model]) -> Model:
        """The fields; InputError where one is unknown or wrong, also in the query where the form has another."""
        queried = checked(model, self.queried)
        return queried if self.fields == self.queried else checked(model, self.fields)


class UploadCall(IODescriptor):
    """Base of the input of API methods that read their upload themselves, when they have room for it.

    ``form`` describes the fields; the method gets the request, and reads it with `receive`.
    """

    form: ClassVar[type[BaseModel]]
    media_type: ClassVar[str | None] = "multipart/form-data"
    request: Any

    @classmethod
    def __pydantic_init_subclass__(cls) -> None:
        cls.multipart_fields = list(cls.model_fields)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return cls.form.model_json_schema(*args, **kwargs)

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:
        return cast(Self, cls.model_construct(request=request))


async def receive(request: Request, name: str, kinds: tuple[str, ...], path: Path, patience: float) -> Upload:
    """Write the file of field `name`, or the bare body, to `path`.

    Args:
        request: of which nothing has been read.
        name: the form's file field.
        kinds: media types, or their beginnings, of bare bodies.
        path: where to; its folder exists.
        patience: seconds to wait for the next piece.

    Raises:
        WrongKindError: the body is neither a form nor one of `kinds`, by its headers.
        MalformedFormError: the form is broken, or ends early.
        FileExpectedError: the file is missing, empty, or a text stands in its place.
        SlowClientError: the client fell silent.
        UnavailableError: the disk is full.
        InputError: a field or parameter is given twice, is too long, or not UTF-8.
    """
    check_coding(request.headers)
    kind, options = parse_options_header(request.headers.get("content-type"))
    queried = parameters(request)
    upload = Upload(path, fields=dict(queried), queried=queried)
    with disk_errors(), path.open("wb") as file:
        reader = _reader(kind.decode("latin-1"), options, name, kinds, upload, file)
        async for piece in _pieces(request, patience):
            if len(piece) <= _SMALL:
                reader.feed(piece)
            else:
                await _finished_even_if_cancelled(reader.feed, piece)
        reader.finish()
        empty = not file.tell()
    if empty:
        raise FileExpectedError("the file is empty", where=name, expected="a file", got="0 bytes")
    return upload


def parameters(request: Request) -> dict[str, str]:
    """The query; InputError where it gives a parameter twice."""
    query = request.query_params
    for name in query:
        if len(query.getlist(name)) > 1:
            raise InputError("the parameter is given twice", where=shorten(name, 80), expected="it once")
    return dict(query)


class _Reader(Protocol):
    def feed(self, piece: bytes) -> object: ...
    def finish(self) -> None: ...


class _Bare:
    """The body is the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.feed = file.write

    def finish(self) -> None:
        pass


def _reader(
    kind: str, options: Mapping[bytes, bytes], name: str, kinds: tuple[str, ...], upload: Upload, file: BinaryIO
) -> _Reader:
    if kind == "multipart/form-data":
        return _Form(options.get(b"boundary", b""), name, upload, file)
    if kind.startswith(kinds):
        return _Bare(file)
    bare = ", ".join(f"{known}*" if known.endswith("/") else known for known in kinds)
    expected = f"multipart/form-data with a file in the field {name}, or the bare file as one of {bare}"
    fix = f"With curl: -F {name}=@FILE."
    raise WrongKindError("wrong content type", where="Content-Type header", expected=expected, got=kind or "none", fix=fix)


class _Form:
    """multipart/form-data (RFC 7578), pushed through piece by piece: the file to disk, short texts to memory."""

    def __init__(self, boundary: bytes, name: str, upload: Upload, file: BinaryIO) -> None:
        self._name, self._upload, self._file = name, upload, file
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._field = ""  # of the part at hand
        self._texts: dict[str, bytearray] = {}
        self._parts = 0
        self._have_file = self._ended = False
        if not boundary:
            raise MalformedFormError("no boundary", where="Content-Type header", expected="multipart/form-data; boundary=…")
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise MalformedFormError("not a boundary", where="Content-Type header", got=error) from None

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open_part,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def feed(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise MalformedFormError("not a multipart form", where="body", got=error, fix="Let a library write it.") from None

    def finish(self) -> None:
        if not self._ended:
            expected = "the boundary that closes it"
            raise MalformedFormError("the form ends early", where="body", expected=expected, fix="Send it again.")
        if not self._have_file:
            raise FileExpectedError("the field is missing", where=self._name, expected="a file")
        self._upload.fields.update({name: _text(name, value) for name, value in self._texts.items()})

    def _begin(self) -> None:
        self._headers, self._parts = {}, self._parts + 1
        if self._parts > _MOST_PARTS:
            raise MalformedFormError("too many parts", where="body", expected=f"at most {_MOST_PARTS}")

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _open_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            fix = 'Each part needs the header Content-Disposition: form-data; name="…".'
            raise MalformedFormError("a part without a name", where=f"body, part {self._parts}", fix=fix)
        self._field = options[b"name"].decode("utf-8", "replace")
        self._refuse_wrong_part(is_file=b"filename" in options)
        if self._field == self._name:
            self._have_file = True
            self._upload.name = options[b"filename"].decode("utf-8", "replace")
        else:
            self._texts[self._field] = bytearray()

    def _refuse_wrong_part(self, is_file: bool) -> None:
        where = shorten(self._field, 80)
        if self._field in self._texts or (self._have_file and self._field == self._name):
            raise InputError("the field is given twice", where=where, expected="it once")
        if self._field == self._name and not is_file:
            fix = f"With curl: -F {self._name}=@FILE. Addresses are not fetched."
            raise FileExpectedError("a text where a file is due", where=where, expected="a part with a filename", fix=fix)
        if self._field != self._name and is_file:
            problem, expected = "a file where a text is due", f"a file in the field {self._name} only"
            raise InputError(problem, where=where, expected=expected)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field == self._name:
            self._file.write(data[start:end])
            return
        text = self._texts[self._field]
        text += data[start:end]
        if len(text) > _LONGEST_TEXT:
            raise InputError("the field is too long", where=shorten(self._field, 80), expected=f"at most {_LONGEST_TEXT} bytes")

    def _end(self) -> None:
        self._ended = True


def _text(name: str, value: bytearray) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"byte 0x{value[error.start]:02x}"
        raise InputError("not valid UTF-8", where=shorten(name, 80), expected="text in UTF-8", got=got) from None


async def _pieces(request: Request, patience: float) -> AsyncIterator[bytes]:
    """The body in pieces of about a megabyte."""
    stream = request.stream()
    gathered = bytearray()
    more = True
    while more:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(stream, None)
        except TimeoutError:
            limit = f"the next piece within {patience:g} s"
            raise SlowClientError("the body did not arrive", where="body", expected=limit, fix="Send it again.") from None
        more = chunk is not None
        gathered += chunk or b""
        if len(gathered) >= _PIECE or not more:
            yield bytes(gathered)
            gathered.clear()


async def _finished_even_if_cancelled(function: Any, piece: bytes) -> None:
    """Run in a thread; a caller who is cancelled goes when the thread has let go of the file."""
    work = asyncio.ensure_future(asyncio.to_thread(function, piece))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
