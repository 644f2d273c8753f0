"""A gateway over fake taggers, to be served in a process of its own: no bundle, no network runtime."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import bentoml
from pydantic import TypeAdapter

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


class FakeEndpoints(TaggerEndpoints):
    def __init__(self) -> None:
        super().__init__(fake_taggers())


Fake = bentoml.service(name="convoy", service_class=ConvoyService, **service_config())(FakeEndpoints)
