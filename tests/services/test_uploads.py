"""Reading uploads, without a server."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from python_multipart import MultipartParser
from recordings import file_part, form, text_part
from starlette.requests import ClientDisconnect, Request

from models.errors import InputError, UnavailableError
from services.http import SlowClientError
from services.json_body import WrongKindError
from services.uploads import FileExpectedError, MalformedFormError, Upload, receive

FORM = "multipart/form-data; boundary=x"
KINDS = ("audio/", "application/octet-stream")


def read(folder, body: bytes | list[bytes], kind: str | None = FORM, query: str = "", **headers: str) -> Upload:
    pieces = [body] if isinstance(body, bytes) else body
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces] + [{"type": "http.request"}]
    given = {"content-type": kind, **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items() if value is not None]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": query.encode()}

    async def next_message():
        return messages.pop(0)

    return asyncio.run(receive(Request(scope, next_message), "audio", KINDS, folder / "upload", 1.0))


def test_a_form_brings_file_name_and_fields(tmp_path):
    body = form(text_part("model", "é".encode()), file_part(b"RIFF\r\n--\r\nrest", filename="a b.wav"), text_part("output", b""))
    upload = read(tmp_path, body)
    assert (tmp_path / "upload").read_bytes() == b"RIFF\r\n--\r\nrest"
    assert (upload.name, upload.fields) == ("a b.wav", {"model": "é", "output": ""})


@given(content=st.binary(min_size=1, max_size=300), cuts=st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_the_bytes_survive_however_the_network_cuts_them(tmp_path_factory, content, cuts):
    folder = tmp_path_factory.mktemp("upload")
    body = form(file_part(content.replace(b"--x", b"") or b"a"), text_part("model", b"m"))
    pieces, at = [], 0
    for size in cuts:
        pieces.append(body[at : at + size])
        at += size
    upload = read(folder, [*pieces, body[at:]])
    assert upload.path.read_bytes() == (content.replace(b"--x", b"") or b"a")
    assert upload.fields == {"model": "m"}


@pytest.mark.parametrize("kind", ["audio/flac", "application/octet-stream", "AUDIO/wav; codecs=1"])
def test_a_bare_body_is_the_file_and_its_fields_stand_in_the_query(tmp_path, kind):
    upload = read(tmp_path, [b"RI", b"FF"], kind, "model=a&output=files")
    assert upload.path.read_bytes() == b"RIFF"
    assert upload.fields == {"model": "a", "output": "files"}


class Fields(BaseModel):
    output: Literal["files", "channels"] = "files"
    model: str = ""


def test_a_wrong_field_of_the_query_is_told_also_where_the_form_has_a_right_one(tmp_path):
    body = form(text_part("output", b"files"), file_part(b"RIFF"))
    assert read(tmp_path, body, query="output=channels").form(Fields).output == "files"
    with pytest.raises(InputError, match="output: wrong value"):
        read(tmp_path, body, query="output=ogg").form(Fields)


def test_a_parameter_given_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="model: the parameter is given twice"):
        read(tmp_path, form(file_part(b"RIFF")), query="model=a&output=files&model=b")


BAD = {
    "a text where the file is due": (form(text_part("audio", b"http://127.0.0.1:1/")), FileExpectedError, "not fetched"),
    "an address as type": (form(b'Content-Disposition: form-data; name="audio"\r\nContent-Type: audio/wav\r\n\r\nhttp://a/'),
                           FileExpectedError, "expected a part with a filename"),
    "no file": (form(text_part("model", b"a")), FileExpectedError, "audio: the field is missing"),
    "nothing": (b"", MalformedFormError, "the form ends early"),
    "an empty form": (b"--x--\r\n", FileExpectedError, "the field is missing"),
    "an empty file": (form(file_part(b"")), FileExpectedError, "the file is empty"),
    "the file twice": (form(file_part(b"a"), file_part(b"b")), InputError, "audio: the field is given twice"),
    "a field twice": (form(text_part("model", b"a"), text_part("model", b"b"), file_part(b"a")), InputError, "given twice"),
    "a file as model": (form(file_part(b"a", name="model")), InputError, "model: a file where a text is due"),
    "a long field": (form(text_part("model", b"a" * 1025), file_part(b"a")), InputError, "at most 1024 bytes"),
    "a field not in UTF-8": (form(text_part("model", b"\xff"), file_part(b"a")), InputError, "model: not valid UTF-8"),
    "many parts": (form(*(text_part(f"f{n}", b"") for n in range(17))), MalformedFormError, "at most 16"),
    "a part without a name": (form(b"Content-Type: audio/wav\r\n\r\nabc"), MalformedFormError, "part 1: a part without a name"),
    "a part without headers": (form(b"\r\nabc"), MalformedFormError, "without a name"),
    "not a form": (b"RIFFabcd", MalformedFormError, "not a multipart form"),
    "cut in the file": (form(file_part(b"abc" * 100))[:-20], MalformedFormError, "the form ends early"),
    "cut in a header": (b"--x\r\nContent-Dispo", MalformedFormError, "the form ends early"),
    "another boundary": (form(file_part(b"abc"), boundary=b"y", end=b"--y--"), MalformedFormError, "not a multipart form"),
    "an endless header": (form(b"X-A: " + b"a" * 100_000 + b"\r\n\r\nabc"), MalformedFormError, "header size"),
    "many headers": (form(b"".join(b"X-%d: a\r\n" % n for n in range(1000)) + b"\r\nabc"), MalformedFormError, "header count"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_form_is_said(tmp_path, name, caplog):
    body, kind, said = BAD[name]
    with caplog.at_level(logging.CRITICAL, "python_multipart"), pytest.raises(kind) as caught:
        read(tmp_path, body)
    assert said in caught.value.message
    assert 400 <= caught.value.status < 500


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json", "multipart/mixed; boundary=x"]
)
def test_other_kinds_are_refused(tmp_path, kind):
    with pytest.raises(WrongKindError, match=r"-F audio=@FILE"):
        read(tmp_path, b"abc", kind)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 300}"]
)
def test_a_form_needs_a_boundary(tmp_path, kind):
    with pytest.raises(MalformedFormError, match="Content-Type header"):
        read(tmp_path, b"abc", kind)


def test_compressed_bodies_are_refused(tmp_path):
    with pytest.raises(WrongKindError, match="compressed"):
        read(tmp_path, b"abc", "audio/wav", content_encoding="gzip")


def test_a_full_disk_is_ours(tmp_path):
    with pytest.raises(UnavailableError, match="no room"):
        read(tmp_path / "missing", form(file_part(b"abc")))


def scope():
    return {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"audio/wav")], "query_string": b""}


def test_a_client_that_falls_silent_is_told_so(tmp_path):
    async def main():
        messages = [{"type": "http.request", "body": b"a", "more_body": True}]

        async def next_message():
            return messages.pop() if messages else await asyncio.sleep(60)

        with pytest.raises(SlowClientError, match="within"):
            await receive(Request(scope(), next_message), "audio", KINDS, tmp_path / "upload", 0.05)

    asyncio.run(main())


def test_a_client_that_hangs_up_ends_the_reading(tmp_path):
    async def main():
        async def next_message():
            return {"type": "http.disconnect"}

        with pytest.raises(ClientDisconnect):
            await receive(Request(scope(), next_message), "audio", KINDS, tmp_path / "upload", 1)

    asyncio.run(main())


def test_a_large_body_is_never_held(tmp_path):
    """Pieces reach the disk while the body is still arriving."""

    async def main():
        sizes = []

        async def next_message():
            sizes.append((tmp_path / "upload").stat().st_size)
            return {"type": "http.request", "body": b"x" * 2**19, "more_body": len(sizes) < 20}

        await receive(Request(scope(), next_message), "audio", KINDS, tmp_path / "upload", 1)
        arrived = [2**19 * number for number in range(20)]
        assert max(there - written for there, written in zip(arrived, sizes, strict=True)) <= 2**21

    asyncio.run(main())
    assert (tmp_path / "upload").stat().st_size == 20 * 2**19


@pytest.mark.parametrize(("times", "elsewhere"), [(1_000, False), (100_000, True)])
def test_parsing_of_a_long_body_leaves_the_event_loop_alone(tmp_path, monkeypatch, times, elsewhere):
    """The parser runs in a thread: a body made to be slow to parse delays nobody else. What is short is not worth the change."""
    threads = set()

    class Watched(MultipartParser):
        def write(self, data):
            threads.add(threading.current_thread())
            return super().write(data)

    monkeypatch.setattr("services.uploads.MultipartParser", Watched)
    read(tmp_path, form(file_part(b"\r\n--" * times)))
    assert threads
    assert (threading.main_thread() not in threads) == elsewhere
