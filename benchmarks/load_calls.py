"""The calls of `load.py`: each with an answer that is known beforehand, so that a lost or mixed-up one shows."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import multiprocessing
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "services" / "page" / "samples"
SEPARATOR, SEGMENTER = "separator-2speakers", "segmenter-hippocampus"
SENTENCES = {
    "English": "Ada Lovelace lived in London and wrote of engines that weave numbers as looms weave leaves. ",
    "Chinese": "我爱北京天安门，天安门上太阳升。二十世纪的计算机科学家在上海生活。",
}
LONG = 20_000  # characters
CANCELLED = 0.05  # share of tasks that are cancelled
BUSY = {429, 503}
Check = Callable[[httpx.Response], str]


@dataclass
class Expected:
    """Files to send, and what comes back."""

    recordings: list[tuple[bytes, np.ndarray]]
    volumes: list[tuple[bytes, np.ndarray]]


def expected(count: int = 6) -> Expected:
    """Different recordings and volumes, and what the predictors make of them, in a process of their own: this one stays small."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_expected, (count,))


def _expected(count: int) -> Expected:
    from models.segmenter import Segmenter
    from models.separator import Separator

    voices, rate = soundfile.read(SAMPLES / "two-speakers.flac", dtype="float32")
    scan = nibabel.load(SAMPLES / "hippocampus-mni152.nii.gz")
    separator, segmenter = Separator.load(ROOT / "pretrained" / SEPARATOR), Segmenter.load(ROOT / "pretrained" / SEGMENTER)
    made = Expected([], [])
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(count):
            source, target = Path(scratch) / "a.wav", Path(scratch) / "b.wav"
            start = number * rate
            soundfile.write(source, voices[start : start + (3 + number % 3) * rate], rate, subtype="PCM_16")
            separator.separate_file(source, target)
            made.recordings.append((source.read_bytes(), soundfile.read(target, dtype="float32")[0]))
            image, labels = Path(scratch) / "a.nii", Path(scratch) / "c.nii"
            piece = np.roll(np.asarray(scan.dataobj, np.float32), 2 * number, number % 3)
            nibabel.save(nibabel.Nifti1Image(piece, scan.affine), image)
            segmenter.segment_file(image, labels)
            made.volumes.append((gzip.compress(image.read_bytes(), 1), np.asarray(nibabel.load(labels).dataobj)))
    return made


@dataclass
class Tally:
    """What became of the calls of one route."""

    seconds: list[float] = field(default_factory=list)
    busy: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass
class Calls:
    """What clients do, one call after the other, until they are told to stop.

    Args:
        http: of the server.
        known: files and their answers.
    """

    http: httpx.AsyncClient
    known: Expected
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: Any = field(default_factory=itertools.count)
    accepted: int = 0

    async def repeat(self, call: Callable[[random.Random], Awaitable[None]], seed: int) -> None:
        """One client."""
        chance = random.Random(seed)
        while not self.stopping.is_set():
            await call(chance)

    async def tag(self, chance: random.Random) -> None:
        """Some short texts, each with a word that no other text has."""
        texts = [self._text(chance, chance.randrange(20, 120)) for _ in range(chance.choice([1, 1, 1, 3, 10]))]
        await self._tag("/tag, short", texts)

    async def tag_long(self, chance: random.Random) -> None:
        """One long text."""
        await self._tag("/tag, long", [self._text(chance, LONG)])

    async def separate(self, chance: random.Random) -> None:
        await self._file("/separate", "audio", chance)

    async def segment(self, chance: random.Random) -> None:
        await self._file("/segment", "volume", chance)

    async def task(self, chance: random.Random) -> None:
        """A recording or volume as a task: submitted, asked for, fetched; some are cancelled."""
        kind = chance.choice(["separate", "separate", "segment"])
        name = "audio" if kind == "separate" else "volume"
        content, check = self._known(name, chance)
        what = self._form(name, content)
        began = time.monotonic()
        response = await self._ask(f"/{kind}/submit", "POST", f"/{kind}/submit", lambda answer: "", **what)
        if response is None:
            return
        self.accepted += 1
        query = {"task_id": response.json()["task_id"]}
        if chance.random() < CANCELLED:
            await self._ask(f"/{kind}/cancel", "PUT", f"/{kind}/cancel", _is_canceled, params=query)
            return
        while True:
            answer = await self._ask(f"/{kind}/status", "GET", f"/{kind}/status", lambda answer: "", params=query)
            if answer is not None and (status := answer.json()["status"]) not in {"pending", "in_progress"}:
                break
            await asyncio.sleep(0.5)
        if status != "completed":
            self.tallies[f"/{kind}, as a task"].lost.append(f"{query}: {answer.text[:200]}")
            return
        if await self._ask(f"/{kind}/get", "GET", f"/{kind}/get", check, params=query) is not None:
            self.tallies[f"/{kind}, as a task"].seconds.append(time.monotonic() - began)

    # ---- how ----------------------------------------------------------------------------------------------------------------

    def _text(self, chance: random.Random, length: int) -> str:
        language = chance.choice(list(SENTENCES))
        sentence = SENTENCES[language]
        text = (sentence * (length // len(sentence) + 1))[:length]
        place = chance.randrange(len(text))
        mark = f" convoy{next(self.numbers)}x "
        return text[:place] + mark + text[place:]

    async def _tag(self, route: str, texts: list[str]) -> None:
        await self._ask(route, "POST", "/tag", lambda answer: _same_texts(answer, texts), json={"texts": texts})

    def _known(self, name: str, chance: random.Random) -> tuple[bytes, Check]:
        pairs = self.known.recordings if name == "audio" else self.known.volumes
        own = chance.randrange(len(pairs))
        content, answer = pairs[own]
        read = _voices if name == "audio" else _labels
        return content, lambda response: _same(read(response.content), answer)

    def _form(self, name: str, content: bytes) -> dict[str, Any]:
        model = SEPARATOR if name == "audio" else SEGMENTER
        return {"files": {name: (f"a{next(self.numbers)}", content)}, "data": {"model": model}}

    async def _file(self, route: str, name: str, chance: random.Random) -> None:
        content, check = self._known(name, chance)
        await self._ask(route, "POST", route, check, **self._form(name, content))

    async def _ask(self, route: str, method: str, path: str, check: Check, **what: Any) -> httpx.Response | None:
        """A good answer, checked; a busy service is asked again when it says, as often as it takes."""
        tally = self.tallies[route]
        while True:
            began = time.monotonic()
            try:
                response = await self.http.request(method, path, **what)
            except httpx.HTTPError as error:
                tally.lost.append(repr(error))
                return None
            if response.status_code not in BUSY or "retry-after" not in response.headers:
                break
            tally.busy += 1
            await asyncio.sleep(float(response.headers["retry-after"]))
        if not response.is_success:
            tally.lost.append(f"{response.status_code} {response.text[:200]}")
            return None
        tally.seconds.append(time.monotonic() - began)
        if problem := await asyncio.to_thread(check, response):
            tally.wrong.append(problem)
            return None
        return response


def _same_texts(response: httpx.Response, texts: list[str]) -> str:
    """Whether every text has its own tags: offsets, tokens, the word that no other has."""
    results = response.json()["results"]
    if len(results) != len(texts):
        return f"{len(results)} results for {len(texts)} texts"
    for text, result in zip(texts, results, strict=True):
        tokens = result.get("tokens", [])
        if any(text[token["start"] : token["end"]] != token["text"] for token in tokens):
            return f"tokens of another text than {text[:80]!r}"
        if "".join("".join(token["text"] for token in tokens).split()) != "".join(text.split()):
            return f"tokens are missing of {text[:80]!r}: {result}"[:300]
    return ""


def _voices(content: bytes) -> np.ndarray:
    return np.asarray(soundfile.read(io.BytesIO(content), dtype="float32")[0])


def _labels(content: bytes) -> np.ndarray:
    return np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)


def _same(found: np.ndarray, known: np.ndarray) -> str:
    """Whether it is the answer to what was sent; the last digits depend on how work is spread over threads."""
    if found.shape != known.shape:
        return f"an answer of shape {found.shape}, not {known.shape}"
    if np.issubdtype(known.dtype, np.floating):
        worst = float(np.abs(found - known).max())
        return f"voices differ by {worst:g}" if worst > 1e-3 else ""
    share = float((found != known).mean())
    return f"{share:.2%} of the labels differ" if share > 1e-3 else ""


def _is_canceled(response: httpx.Response) -> str:
    status = response.json()["status"]
    return "" if status in {"canceled", "completed"} else f"{status} after cancel"
