"""The requests of `fuzz.py`: each follows from the seed and its number."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import socket
import ssl  # noqa: F401 (httpx imports it in the first thread otherwise, which is no request's fault)
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import fuzz_seeds
import httpx
import httpx_ws
from mutations import WORDS, mutated
from wsproto.utilities import LocalProtocolError

PATIENCE = 60.0
TASKS = [f"/{task}/{call}" for task in ("separate", "segment") for call in ("submit", "status", "get", "cancel")]
PROBES = ["/", "/models", "/docs.json", "/livez", "/readyz", "/metrics"]
ROUTES = ["/tag", "/separate", "/segment", "/separate/stream", *TASKS, *PROBES]
MODELS = {
    "tag": ["tagger-en", "tagger-zh"],
    "audio": ["separator-2speakers", "separator-2speakers-causal"],
    "volume": ["segmenter-hippocampus", "segmenter-flyem-boundaries"],
}
TYPES = [
    *(
        "application/json",
        "text/plain",
        "application/json; charset=utf-16",
        "multipart/form-data",
        "multipart/form-data; boundary=",
    ),
    *("application/vnd.bentoml+pickle", "application/x-www-form-urlencoded", "image/png", "\xe9", ""),
]
CHOICES = {
    "audio": ["output=channels", "output=files", "format=wav", "format=flac"],
    "volume": ["output=labels", "output=preview", "output=summary", "format=nii.gz", "format=nrrd", "format=mha", "format=tif"],
}
WRONG = ["format=dcm", "spacing=1,1,1", "spacing=1e-9,1e9,1", "spacing=a,b", "flips=zz", "flips=x", "x=1", "model=none"]


@dataclass
class Sent:
    """One request, as it went.

    Attributes:
        route: what it was for.
        status: of the answer, or what happened instead.
        code: of the error.
        said: the beginning of the answer.
        body: what was sent.
        fault: whether the service is to blame.
    """

    route: str
    status: str
    code: str = ""
    said: str = ""
    body: bytes = b""
    fault: bool = False


@dataclass
class Requests:
    """All requests to one server; safe to use from several threads.

    Args:
        url: of the server.
        seed: of everything.
    """

    url: str
    seed: int
    tasks: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recordings, self.volumes = fuzz_seeds.recordings(), fuzz_seeds.volumes()
        self.others = [*self.recordings.values(), *self.volumes.values()]
        self._local = threading.local()
        kinds: list[tuple[int, Callable[[random.Random], Sent]]] = [
            (34, self.tag),
            (20, lambda chance: self.file(chance, "audio")),
            (20, lambda chance: self.file(chance, "volume")),
            (8, self.form),
            (6, self.raw),
            (6, self.task),
            (3, self.stream),
            (3, self.other),
        ]
        self._weights, self._kinds = zip(*kinds, strict=True)

    def send(self, number: int, *, verbose: bool = False) -> Sent:
        """Send the request of this number."""
        chance = random.Random(f"{self.seed}-{number}")
        kind = chance.choices(self._kinds, self._weights)[0]
        try:
            sent = kind(chance)
        except (httpx.InvalidURL, httpx.LocalProtocolError) as error:  # our own library would not send it
            return Sent("not sent", type(error).__name__)
        except httpx.TimeoutException as error:
            sent = Sent(getattr(kind, "__name__", "file"), "timeout", said=repr(error), fault=True)
        except httpx.TransportError as error:
            sent = Sent(getattr(kind, "__name__", "file"), "no answer", said=repr(error), fault=True)
        if verbose:
            print(sent.body[:2000])
        return sent

    @property
    def client(self) -> httpx.Client:
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        return self._local.client

    def _ask(self, route: str, method: str, path: str, **what: object) -> Sent:
        request = self.client.build_request(method, path, **what)
        response = self.client.send(request)
        return judged(route, response.status_code, response.content, response.headers.get("content-type", ""), request.read())

    # ---- kinds of requests -----------------------------------------------------------------------------------------------

    def tag(self, chance: random.Random) -> Sent:
        """JSON, right, wrong or broken."""
        texts: list[object] = [chance.choice(fuzz_seeds.TEXTS) for _ in range(chance.choice([0, 1, 1, 1, 2, 5, 40]))]
        if chance.random() < 0.15:
            texts.insert(0, chance.choice([None, 1, 1e300, [], {}, True, ["a"], "\ud800"]))
        content: dict[str, object] = {"texts": texts}
        if chance.random() < 0.3:
            content["model"] = chance.choice([*MODELS["tag"], "tagger-fr", None, 7, "", "../x"])
        if chance.random() < 0.05:
            content[chance.choice(["extra", "text", "__proto__", ""])] = 1
        body = json.dumps(chance.choice([content] * 4 + [texts, texts and texts[0]])).encode("utf-8", "replace")
        if chance.random() < 0.4:
            body = mutated(body, chance, [json.dumps({"texts": ["我"] * 9}).encode(), b"[" * 5000, b'{"a":' * 3000])
        kind = "application/json" if chance.random() < 0.9 else chance.choice(TYPES)
        return self._ask("POST /tag", "POST", "/tag", content=body, headers={"Content-Type": kind.encode("latin-1")})

    def file(self, chance: random.Random, kind: str) -> Sent:
        """A real recording or volume, mostly damaged, as a form or bare, waited for or as a task."""
        seeds = self.recordings if kind == "audio" else self.volumes
        name, content = chance.choice(list(seeds.items()))
        if chance.random() < 0.9:
            content = mutated(content, chance, self.others)
        path = ("/separate" if kind == "audio" else "/segment") + ("/submit" if chance.random() < 0.15 else "")
        fields = {} if chance.random() < 0.2 else {"model": chance.choice(MODELS[kind])}
        for word in chance.sample(CHOICES[kind] * 2 + WRONG, chance.choice([0, 0, 1, 2])):
            fields.update([word.split("=", 1)])
        if chance.random() < 0.25:
            bare = {"Content-Type": "audio/wav" if kind == "audio" else "application/octet-stream"}
            sent = self._ask(f"POST {path}", "POST", path, content=content, params=fields, headers=bare)
        else:
            sent = self._ask(f"POST {path}", "POST", path, files={kind: (name, content)}, data=fields)
        sent.body = content
        if sent.status == "202":
            self.tasks.append((path.removesuffix("/submit"), json.loads(sent.said)["task_id"]))
        return sent

    def form(self, chance: random.Random) -> Sent:
        """A form, damaged as a whole: boundaries, headers of parts, lengths."""
        kind = chance.choice(["audio", "volume"])
        seeds = self.recordings if kind == "audio" else self.volumes
        name, content = chance.choice(list(seeds.items()))
        files = [(kind, (name, content[:2000]))] * chance.choice([1, 1, 1, 2])
        path = "/separate" if kind == "audio" else "/segment"
        data = {"model": chance.choice(MODELS[kind]), "output": "files"}
        built = httpx.Request("POST", self.url + path, files=files, data=data)
        header, body = built.headers["content-type"], built.read()
        if chance.random() < 0.3:
            header = _sendable(mutated(header.encode(), chance))
        if chance.random() < 0.8:
            body = mutated(body, chance, [built.read(), *self.others])
        headers = {"Content-Type": header.encode("latin-1"), "X-Request-Id": chance.choice(["a", "b" * 200, "<>"])}
        return self._ask(f"POST {path} (form)", "POST", path, content=body, headers=headers)

    def raw(self, chance: random.Random) -> Sent:
        """Bytes that may or may not be HTTP."""
        body = json.dumps({"texts": [chance.choice(fuzz_seeds.TEXTS)]}).encode("utf-8", "replace")
        path = chance.choice(ROUTES)
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
        lengths = [f"Content-Length: {length}" for length in (len(body), 99999999999999999999, -1, 5)]
        lengths += ["Transfer-Encoding: chunked", "Expect: 100-continue\r\nContent-Length: 10", "Content-Encoding: gzip"]
        message = (head + chance.choice(lengths) + "\r\n\r\n").encode() + body
        if chance.random() < 0.7:
            message = mutated(message, chance, [message])
        host = urlsplit(self.url)
        answer = b""
        with socket.create_connection((host.hostname, host.port), timeout=PATIENCE) as connection:
            try:
                connection.sendall(message)
                connection.shutdown(socket.SHUT_WR)
                while len(answer) < 65536 and (piece := connection.recv(65536)):
                    answer += piece
            except TimeoutError:
                return Sent("raw HTTP", "timeout", body=message, fault=True)
            except OSError:
                pass
        status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed"
        return Sent("raw HTTP", status, said=answer[:300].decode("latin-1"), body=message, fault=status in {"500", "502"})

    def task(self, chance: random.Random) -> Sent:
        """A question for a task of ours, or of nobody's."""
        known = chance.choice(self.tasks[-50:]) if self.tasks else ("/separate", "x")
        call = chance.choice(["status", "status", "get", "get", "cancel"])
        name = known[1] if chance.random() < 0.7 else mutated(known[1].encode(), chance).decode("latin-1")[:1000]
        path, method = f"{known[0]}/{call}", "PUT" if call == "cancel" else "GET"
        query = chance.choice([f"task_id={quote(name)}"] * 8 + ["", "task_id", f"task_id={quote(name)}&task_id=b", "a=%ff%zz"])
        return self._ask(f"{method} {path}", method, f"{path}?{query}")

    def stream(self, chance: random.Random) -> Sent:
        """A live stream that says what it wants."""
        good = ["", "sample_rate=8000&format=pcm_f32le", "sample_rate=16000"]
        query, said = chance.choice(good * 3 + ["sample_rate=999999999", "format=mp3", "model=x", "a=b"]), ""
        try:
            with httpx_ws.connect_ws(f"{self.url}/separate/stream?{query}", keepalive_ping_interval_seconds=None) as opened:
                opened.receive_text(timeout=PATIENCE)
                with contextlib.suppress(LocalProtocolError):  # it has closed, and we go on to hear why
                    self._talk(opened, chance)
                if chance.random() < 0.2:
                    return Sent("WS /separate/stream", "left")
                while True:
                    said = str(opened.receive(timeout=PATIENCE))
        except httpx_ws.WebSocketDisconnect as error:
            status, good_end = f"closed {error.code}", error.code in {1000, 1003, 1008, 1009}
            return Sent("WS /separate/stream", status, said=f"{error.reason} {said}", fault=not good_end)
        except httpx_ws.WebSocketUpgradeError as error:
            return Sent("WS /separate/stream", f"refused {error.response.status_code}", fault=error.response.status_code >= 500)
        except (httpx_ws.WebSocketNetworkError, TimeoutError, queue.Empty) as error:
            return Sent("WS /separate/stream", "no close", said=f"{error!r} {said}", fault=True)

    def _talk(self, opened: httpx_ws.WebSocketSession, chance: random.Random) -> None:
        for _ in range(chance.randrange(6)):
            if chance.random() < 0.8:
                opened.send_bytes(chance.randbytes(chance.choice([0, 1, 7, 320, 1600, 5000])))
            else:
                opened.send_text(mutated(b'{"type": "end"}', chance).decode("latin-1"))
        opened.send_text('{"type": "end"}')

    def other(self, chance: random.Random) -> Sent:
        """Any method at any path."""
        path = chance.choice(ROUTES)
        if chance.random() < 0.5:
            path = "/" + quote(mutated(path.encode(), chance)[:300], safe="/%?&=")
        if chance.random() < 0.3:
            path += f"{'&' if '?' in path else '?'}{quote(chance.choice(WORDS)[:200])}={quote(chance.choice(WORDS)[:200])}"
        method = chance.choice(["GET", "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "CONVOY"])
        return self._ask("other", method, path, content=b"" if method != "POST" else chance.choice(WORDS))


def judged(route: str, status: int, content: bytes, kind: str, body: bytes) -> Sent:
    """An answer; a fault is every 5xx but 503 and 504, and every error that is not in the one shape."""
    code, fault = "", status >= 500
    if status >= 400 and content and kind == "application/json":
        error = json.loads(content).get("error", {})
        code = str(error.get("code", ""))
        fault = set(error) != {"code", "message", "request_id"} or (fault and not (status in {503, 504} and code))
    elif status >= 400 and content:
        fault = True
    return Sent(route, str(status), code, content[:300].decode("utf-8", "replace"), body, fault)


def _sendable(header: bytes) -> str:
    """What the client's own library lets through: no control characters, no space at the ends."""
    return "".join(sign for sign in header.decode("latin-1") if sign.isprintable()).strip()
