"""Live separation, driven without a server: the client's messages on one side, the server's on the other."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import numpy as np
import pytest
from fake_service import GAINS, FakeSeparator, FakeStream
from hypothesis import given
from hypothesis import strategies as st
from recordings import samples
from starlette.websockets import WebSocket

from models.errors import UnavailableError
from services.streams import NotPcmError, Pcm, Streams

END = {"type": "websocket.receive", "text": '{"type": "end"}'}


def binary(data: bytes) -> dict:
    return {"type": "websocket.receive", "bytes": data}


def text(data: str) -> dict:
    return {"type": "websocket.receive", "text": data}


class Client:
    """One client's end of a WebSocket; silent once it has said everything."""

    def __init__(self, *messages: dict, query: str = "", reads: bool = True, **headers: str) -> None:
        self.messages, self.reads = [{"type": "websocket.connect"}, *messages], reads
        self.sent: list[dict] = []
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        extensions = {"websocket.http.response": {}}
        scope = {"type": "websocket", "path": "/", "query_string": query.encode(), "headers": raw, "extensions": extensions}
        scope["subprotocols"] = []
        self.socket = WebSocket(scope, self._receive, self._send)

    async def _receive(self) -> dict:
        return self.messages.pop(0) if self.messages else await asyncio.sleep(60)

    async def _send(self, message: dict) -> None:
        if not self.reads and message["type"] == "websocket.send":
            await asyncio.sleep(60)
        self.sent.append(message)

    @property
    def texts(self) -> list[dict]:
        return [json.loads(message["text"]) for message in self.sent if "text" in message]

    @property
    def audio(self) -> bytes:
        return b"".join(message.get("bytes", b"") for message in self.sent)

    @property
    def closed(self) -> int | None:
        return self.sent[-1].get("code") if self.sent and self.sent[-1]["type"] == "websocket.close" else None


def serve(
    *clients: Client, separator: FakeSeparator | None = None, most: int = 8, idle: float = 5, chunk: int = 2**20
) -> Streams:
    async def main() -> Streams:
        streams = Streams(most, chunk, idle)
        found = separator or FakeSeparator("live", causal=True)
        await asyncio.wait_for(asyncio.gather(*(streams.serve(client.socket, lambda model: found) for client in clients)), 20)
        streams.close()
        return streams

    streams = asyncio.run(main())
    assert streams.open == 0
    return streams


def error_of(client: Client, code: int) -> dict[str, str]:
    assert client.closed == code
    error = client.texts[-1]["error"]
    assert set(error) == {"code", "message", "request_id"}
    return error


@given(cuts=st.lists(st.integers(1, 700), min_size=1, max_size=20), kind=st.sampled_from(["pcm_s16le", "pcm_f32le"]))
def test_any_cutting_gives_the_same_voices(cuts, kind):
    given_samples = samples(0.4)[:, 0]
    pcm = Pcm(kind)
    data = pcm.write(given_samples[None])
    pieces, at = [], 0
    for size in cuts:
        pieces.append(binary(data[at : at + size]))
        at += size
    client = Client(*pieces, binary(data[at:]), END, query=f"format={kind}&sample_rate=8000")
    serve(client)
    voices = pcm.read(client.audio).reshape(-1, 2).T
    assert np.allclose(voices, GAINS * given_samples, atol=2e-4)
    assert client.texts[0] == {
        "type": "start",
        "model": "live",
        "sources": ["first", "second"],
        "sample_rate": 8000,
        "format": kind,
        "delay_samples": 4,
    }
    assert client.texts[-1] == {"type": "end", "samples": len(given_samples)}
    assert client.closed == 1000


@given(st.lists(st.integers(-32768, 32767), min_size=1))
def test_16_bit_samples_come_back_as_they_were(values):
    data = np.array(values, "<i2").tobytes()
    pcm = Pcm("pcm_s16le")
    assert pcm.write(pcm.read(data)[None]) == data


def test_what_is_louder_than_16_bits_is_cut_off_and_does_not_wrap():
    written = np.frombuffer(Pcm("pcm_s16le").write(np.float32([[1.0, -1.5, 40.0]])), "<i2")
    assert written.tolist() == [32767, -32768, 32767]


def test_a_stream_of_nothing_ends_well():
    client = Client(text('{"type": "flush"}'))
    serve(client)
    assert client.texts[-1] == {"type": "end", "samples": 0}


def test_half_a_sample_at_the_end_is_told():
    client = Client(binary(b"\0\0\1"), END)
    serve(client)
    assert client.texts[-1] == {"type": "end", "samples": 1, "dropped_bytes": 1}


def test_a_large_message_is_worked_on_in_slices():
    class Watched(FakeStream):
        def push(self, samples):
            sizes.append(len(samples))
            threads.add(threading.current_thread())
            return super().push(samples)

    class Watching(FakeSeparator):
        def stream(self, sample_rate):
            return Watched(0)

    sizes: list[int] = []
    threads: set[threading.Thread] = set()
    serve(Client(binary(bytes(2 * 9000)), END), separator=Watching("live", causal=True))
    assert sizes == [2000] * 4 + [1000]
    assert threading.main_thread() not in threads


NAN = np.float32([0.1, np.nan]).tobytes()
WRONG = {
    "NaN": (Client(binary(NAN), query="format=pcm_f32le"), 1003, "not a finite number"),
    "infinity": (Client(binary(np.float32([np.inf]).tobytes()), query="format=pcm_f32le"), 1003, "not a finite number"),
    "a text": (Client(text("hello")), 1003, "got hello"),
    "another object": (Client(text('{"type": "start"}')), 1003, "means nothing here"),
    "a deep text": (Client(text("[" * 100_000)), 1003, "means nothing here"),
    "a list": (Client(text('["end"]')), 1003, "means nothing here"),
    "a large message": (Client(binary(bytes(1001))), 1009, "at most 1000 bytes, got 1001"),
    "a rate that is no number": (
        Client(query="sample_rate=fast"),
        1008,
        "sample_rate: wrong type or value: expected a whole number",
    ),
    "1 Hz": (Client(query="sample_rate=1"), 1008, "an odd rate"),
    "1 GHz": (Client(query="sample_rate=1000000000"), 1008, "an odd rate"),
    "an unknown format": (Client(query="format=mp3"), 1008, "expected 'pcm_s16le' or 'pcm_f32le'"),
    "an unknown parameter": (Client(query="rate=8000"), 1008, "rate: unknown field"),
    "silence": (Client(), 1008, "a message within 0.1 s"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_the_place_is_free(name):
    client, code, said = WRONG[name]
    serve(client, chunk=1000, idle=0.1)
    assert said in error_of(client, code)["message"]


def test_a_bug_of_ours_tells_the_client_nothing_and_the_log_everything(caplog):
    client = Client(END)
    with caplog.at_level(logging.ERROR):
        serve(client, separator=FakeSeparator("BOOM-live"))
    assert "on our side" in error_of(client, 1011)["message"]
    assert "ZeroDivisionError" in caplog.text


def test_without_a_bundle_the_client_is_told_to_come_back():
    def choose(model):
        raise UnavailableError("no causal separator bundle is loaded")

    client = Client(END)
    asyncio.run(Streams(8, 1000, 5).serve(client.socket, choose))
    assert error_of(client, 1013)["code"] == "unavailable"


def test_no_more_streams_than_are_allowed_and_a_vanished_client_frees_its_place_at_once():
    async def main():
        streams = Streams(1, 1000, 60)
        found = FakeSeparator("live", causal=True)
        first = Client(binary(bytes(10)))
        serving = asyncio.create_task(streams.serve(first.socket, lambda model: found))
        await asyncio.sleep(0.1)
        second = Client(END)
        await streams.serve(second.socket, lambda model: found)
        assert "at most 1" in error_of(second, 1013)["message"]
        assert streams.open == 1
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        gone = Client(binary(bytes(10)), {"type": "websocket.disconnect", "code": 1006})
        await streams.serve(gone.socket, lambda model: found)
        assert streams.open == 0
        third = Client(END)
        await streams.serve(third.socket, lambda model: found)
        assert third.closed == 1000
        streams.close()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_client_that_does_not_read_is_let_go():
    client = Client(binary(bytes(1000)), END, reads=False)
    serve(client, idle=0.1)
    assert not client.audio


def test_while_work_is_pending_nothing_is_read():
    client = Client(*[binary(bytes(100))] * 50, END)

    async def main():
        streams = Streams(1, 1000, 60)
        slow = FakeSeparator("slow-live", causal=True, pause=0.2)
        serving = asyncio.create_task(streams.serve(client.socket, lambda model: slow))
        await asyncio.sleep(0.5)
        assert len(client.messages) >= 46
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        streams.close()

    asyncio.run(main())


def test_the_subprotocol_of_keys_is_answered_where_it_is_offered():
    for offered, accepted in ((["convoy", "convoy.key.YWJj"], "convoy"), (["other"], None), ([], None)):
        client = Client(END)
        client.socket.scope["subprotocols"] = offered
        serve(client)
        assert client.sent[0]["subprotocol"] == accepted


def test_pcm_keeps_what_is_not_a_whole_sample_yet():
    pcm = Pcm("pcm_f32le")
    assert pcm.read(b"\0\0\x80").size == 0
    assert pcm.rest == 3
    assert pcm.read(b"\x3f").tolist() == [1.0]
    with pytest.raises(NotPcmError):
        pcm.read(NAN)
