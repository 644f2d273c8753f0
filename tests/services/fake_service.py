"""A gateway over fake taggers and separators, to be served in a process of its own: no bundle, no network runtime."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import bentoml
import numpy as np
import soundfile
from pydantic import TypeAdapter

from models.errors import UnprocessableError
from models.separator.audio import Recording
from services.separator import SeparatorEndpoints
from services.service import ConvoyService
from services.settings import service_config
from services.tagger import TaggerEndpoints


@dataclass
class FakeSpan:
    text: str
    start: int
    end: int
    label: str
    confidence: float


@dataclass
class FakeText:
    tokens: list[FakeSpan]
    spans: list[FakeSpan]


@dataclass
class FakeTagger:
    """Tags each run of non-space characters with its length; a text with BOOM in it is a bug, one with SLEEP takes a second."""

    name: str
    languages: list[str]
    batches: list[int] = field(default_factory=list)

    @property
    def spec(self) -> SimpleNamespace:
        known = {"task": "tagger", "labels": ["1", "2"], "licence": "none", "figures": {"accuracy": 1.0}}
        return SimpleNamespace(name=self.name, languages=self.languages, **known)

    def tag(self, texts: Sequence[str]) -> list[FakeText]:
        self.batches.append(len(texts))
        if any("SLEEP" in text for text in texts):
            time.sleep(1.0)
        if any("BOOM" in text for text in texts):
            raise ZeroDivisionError("a bug of ours")
        if any("INVALID" in text for text in texts):
            TypeAdapter(int).validate_python("not a number")  # pydantic's error, but ours
        return [FakeText(_tokens(text), []) for text in texts]


def _tokens(text: str) -> list[FakeSpan]:
    return [FakeSpan(word[0], word.start(), word.end(), str(len(word[0])), 0.5) for word in re.finditer(r"\S+", text)]


def fake_taggers() -> dict[str, FakeTagger]:
    return {"tagger-en": FakeTagger("tagger-en", ["en"]), "tagger-zh": FakeTagger("tagger-zh", ["zh"])}


GAINS = np.float32([[0.75], [0.25]])


@dataclass
class FakeSeparator:
    """Two voices, three quarters and one quarter of the mixture; `pause` seconds a block of 1,000 samples.

    BOOM is a bug, and DEATH the end of the process.
    """

    name: str
    causal: bool = False
    pause: float = 0.0
    sources: tuple[str, ...] = ("first", "second")
    sample_rate: int = 8000

    @property
    def spec(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.name, task="separator", licence="none", figures={"si_snri": 1.0})

    def separate_file(self, source, target: Path, *, layout, limits, name, progress, cancelled) -> SimpleNamespace:
        if self.name == "BOOM":
            raise ZeroDivisionError("a bug of ours")
        if self.name == "DEATH":
            os.kill(os.getpid(), signal.SIGKILL)
        with Recording.open(source, name, limits) as recording:
            voices, rate = self._separate(recording, progress, cancelled), recording.sample_rate
        if layout == "channels":
            soundfile.write(target, voices, rate)
            return SimpleNamespace(paths=[target], scale=1.0)
        paths = [target.with_stem(f"{target.stem}-{source}") for source in self.sources]
        for path, voice in zip(paths, voices.T, strict=True):
            soundfile.write(path, voice, rate)
        return SimpleNamespace(paths=paths, scale=1.0)

    def _separate(self, recording, progress, cancelled):
        parts = [np.zeros((0, 2), np.float32)]
        for block in recording.mono_blocks(1000):
            time.sleep(self.pause)
            if cancelled():
                raise RuntimeError("cancelled")
            parts.append((GAINS * block).T)
            progress(sum(map(len, parts)) / recording.sample_rate, recording.seconds)
        return np.concatenate(parts)

    def stream(self, sample_rate: int) -> FakeStream:
        if not 1000 <= sample_rate <= 192_000:
            raise UnprocessableError("an odd rate", where="sample_rate", got=sample_rate)
        if self.name == "BOOM-live":
            raise ZeroDivisionError("a bug of ours")
        return FakeStream(self.pause)


@dataclass
class FakeStream:
    """Says each sample four later."""

    pause: float
    delay_samples: int = 4
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def push(self, samples):
        time.sleep(self.pause)
        self.kept = np.concatenate([self.kept, samples])
        ready, self.kept = self.kept[:-4], self.kept[-4:]
        return GAINS * ready

    def flush(self):
        return GAINS * self.kept


def fake_separators() -> dict[str, FakeSeparator]:
    kinds = [
        FakeSeparator("separator"),
        FakeSeparator("slow", pause=0.1),
        FakeSeparator("live", causal=True),
        FakeSeparator("slow-live", causal=True, pause=0.1),
        FakeSeparator("BOOM"),
        FakeSeparator("DEATH"),
        FakeSeparator("BOOM-live", causal=True),
    ]
    return {separator.name: separator for separator in kinds}


class FakeEndpoints(TaggerEndpoints, SeparatorEndpoints):
    def __init__(self) -> None:
        super().__init__(fake_taggers(), separators=fake_separators())


Fake = bentoml.service(name="convoy", service_class=ConvoyService, **service_config())(FakeEndpoints)
