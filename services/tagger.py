"""``POST /tag``: labels for the words of texts, from any of the tagger bundles this process has loaded.

Offsets are Unicode code points, as Python counts: ``text[start:end]`` is the token. JavaScript counts UTF-16 units instead, so
there an emoji before a token shifts it: use ``Array.from(text).slice(start, end)``.

A text that cannot be tagged (empty or white space only, too long, in a language no bundle knows) gets ``{"error": {…}}`` in its
place among the results, and its neighbours their tags. If no text of a call could be tagged the call itself fails, with the
status of the error: a single empty text is a 422. What is wrong with the call as a whole (not JSON, wrong types, no texts, too
many texts, an unknown model) always fails the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import bentoml
from _bentoml_sdk import IODescriptor
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from models.errors import ConvoyError, TooLargeError, UnavailableError, UnprocessableError
from models.tagger.tokens import script
from services import metrics
from services.batching import Batcher
from services.http import error_fields, request_id, worst
from services.json_body import JsonRequest, encode
from services.languages import default_names
from services.openapi import ANY_CALL, BODY, answer, described, failures
from services.record import note
from services.service import ConvoyService, TaskEndpoints, UnknownModelError, load_bundles
from services.settings import Settings, service_config

log = logging.getLogger("convoy.tagger")

_AT_ONCE = 2  # batches: Python prepares and reads one while the network runs the other
_COST_OF_A_TEXT = 32  # characters' worth of work that even the shortest text makes


class TaggedSpan(Protocol):
    """A token or a span as the predictor gives it."""

    @property
    def text(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def confidence(self) -> float: ...


class TaggedText(Protocol):
    """One text as the predictor gives it."""

    @property
    def tokens(self) -> Sequence[TaggedSpan]: ...
    @property
    def spans(self) -> Sequence[TaggedSpan]: ...


class Tagger(Protocol):
    """What the endpoint needs of `models.tagger.Tagger`; ``spec`` is a `models.bundle.BundleSpec`."""

    @property
    def spec(self) -> Any: ...
    def tag(self, texts: Sequence[str]) -> Sequence[TaggedText]: ...


class EmptyTextError(UnprocessableError):
    """A text without anything to tag."""

    code = "text_empty"


class UnknownScriptError(UnprocessableError):
    """No bundle knows the language that goes with the text's script."""

    code = "script_unknown"


class TagRequest(JsonRequest):
    """The body of ``POST /tag``."""

    texts: Annotated[list[str], Field(min_length=1, description="The texts to tag, each on its own.")]
    model: Annotated[
        str | None,
        Field(
            description="A bundle's name, see /models; by default chosen per text by script.",
            json_schema_extra={"x-bundles": "tagger"},
        ),
    ] = None


class Span(BaseModel):
    """A token or a span; ``start`` and ``end`` count Unicode code points of the text."""

    text: str
    start: int
    end: int
    label: str
    confidence: float


class Tagged(BaseModel):
    """One text's answer."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(description="The bundle that tagged it.")]
    language: Annotated[str, Field(examples=["en", "zh"])]
    tokens: list[Span]
    spans: Annotated[list[Span], Field(description="Where the labels form spans, such as names.")]


class TextError(BaseModel):
    """Why one text was not tagged."""

    code: str
    message: str


class NotTagged(BaseModel):
    """What stands in the place of a text that could not be tagged, beside others that could."""

    model_config = ConfigDict(extra="forbid")

    error: TextError


class TagResponse(IODescriptor):
    """The answer of ``POST /tag``: the bundles that were used, and one result per text, in order."""

    models: list[str]
    results: list[Tagged | NotTagged]


Result = dict[str, object]
Encoded = bytes
"""A result in JSON; encoded batch by batch, while the next is worked on."""


def _example(text: str, name: str, language: str, *tokens: tuple[str, str, float]) -> tuple[Result, Result]:
    """A call and its answer, for the description."""
    starts = [text.index(token) for token, _, _ in tokens]
    fields = ("text", "start", "end", "label", "confidence")
    spans = [
        dict(zip(fields, (token, start, start + len(token), label, confidence), strict=True))
        for start, (token, label, confidence) in zip(starts, tokens, strict=True)
    ]
    result = {"model": name, "language": language, "tokens": spans, "spans": []}
    return {"texts": [text]}, {"models": [name], "results": [result]}


_EXAMPLES = {
    "english": _example(
        "Ada lived in London",
        "tagger-en",
        "en",
        *(("Ada", "PROPN", 0.9745), ("lived", "VERB", 0.9998), ("in", "ADP", 0.9996), ("London", "PROPN", 1.0)),
    ),
    "中文": _example(
        "我爱北京天安门。",
        "tagger-zh",
        "zh",
        *(("我", "r", 1.0), ("爱", "v", 0.9983), ("北京", "ns", 1.0), ("天安门", "ns", 1.0), ("。", "w", 1.0)),
    ),
}
_QUESTIONS, _ANSWERS = ({name: {"value": pair[side]} for name, pair in _EXAMPLES.items()} for side in (0, 1))
_DESCRIBED: dict[str, object] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": TagRequest, "examples": _QUESTIONS}}},
    "responses": {
        "200": answer("The tags.", {"application/json": {"schema": TagResponse, "examples": _ANSWERS}}),
        **failures((*ANY_CALL, *BODY, EmptyTextError, UnknownScriptError, UnknownModelError)),
    },
}


class TaggerEndpoints(TaskEndpoints):
    """The tagger's API methods, to be served alone (`TaggerService`) or with other tasks (the gateway).

    Args:
        taggers: loaded taggers by name; by default those of every tagger bundle in ``CONVOY_BUNDLES``.
        settings: limits; by default from the environment.
    """

    def __init__(self, taggers: Mapping[str, Tagger] | None = None, settings: Settings | None = None, **others: Any) -> None:
        super().__init__(settings=settings, **others)
        self._taggers = dict(load_taggers(self.settings.bundles) if taggers is None else taggers)
        self._batchers = {name: self._batcher(name, tagger) for name, tagger in self._taggers.items()}
        self._defaults = default_names({name: tagger.spec.languages for name, tagger in self._taggers.items()})
        self.catalogue.extend(describe(tagger.spec) for tagger in self._taggers.values())

    @bentoml.api(route="/tag", input_spec=TagRequest, output_spec=TagResponse)
    @described(_DESCRIBED)
    async def tag(self, texts: list[str], model: str | None = None) -> Response:
        """Tag texts: for each its tokens with label, confidence and offsets in code points, and spans where labels form spans."""
        self._check(texts, model)
        answers: dict[int, Encoded | Exception] = {}
        chosen: dict[int, str] = {}
        for index, text in enumerate(texts):
            try:
                chosen[index] = self._choose(text, model)
            except ConvoyError as refusal:
                answers[index] = refusal
        models = sorted(set(chosen.values()))
        note(models=models, texts=len(texts), characters=sum(map(len, texts)))
        for part in await asyncio.gather(*(self._tag_with(name, texts, chosen) for name in models)):
            answers |= part
        errors = [answer for answer in answers.values() if isinstance(answer, Exception)]
        if len(errors) == len(texts):
            raise worst(errors)
        for error in errors:
            _log(error)
        note(refused=len(errors))
        results = b",".join(_visible(answers[index]) for index in range(len(texts)))
        return Response(b'{"models":%b,"results":[%b]}' % (encode(models), results), media_type="application/json")

    @bentoml.on_shutdown
    async def close_batchers(self) -> None:
        for batcher in self._batchers.values():
            await batcher.close()

    def _batcher(self, name: str, tagger: Tagger) -> Batcher[str, Encoded]:
        def work(texts: list[str]) -> Sequence[Encoded | Exception]:
            metrics.batch(len(texts))
            languages, answers = tagger.spec.languages, tagger.tag(texts)
            metrics.tokens(sum(len(answer.tokens) for answer in answers))
            return [encode(to_result(name, languages, text, answer)) for text, answer in zip(texts, answers, strict=True)]

        bounds = {"batch_cost": self.settings.batch_characters, "queue_cost": self.settings.queue_characters}
        return Batcher(work, cost=lambda text: _COST_OF_A_TEXT + len(text), name=name, task="tag", at_once=_AT_ONCE, **bounds)

    async def _tag_with(self, name: str, texts: list[str], chosen: dict[int, str]) -> dict[int, Encoded | Exception]:
        """The answers, by position, to the texts that `name` was chosen for."""
        indices = [index for index, choice in chosen.items() if choice == name]
        try:
            answers = await self._batchers[name].submit([texts[index] for index in indices])
        except UnavailableError as error:
            answers = [error] * len(indices)
        return dict(zip(indices, answers, strict=True))

    def _check(self, texts: list[str], model: str | None) -> None:
        """What fails the whole call."""
        if not self._taggers:
            raise UnavailableError("no tagger bundle is loaded", where=self.settings.bundles.name, fix="Add one and restart.")
        if len(texts) > (most := self.settings.max_texts):
            raise TooLargeError("too many texts in one call", where="texts", expected=f"at most {most}", got=len(texts))
        if (total := sum(map(len, texts))) > self.settings.max_total_characters:
            limit = f"at most {self.settings.max_total_characters} characters in all"
            raise TooLargeError("too much text in one call", where="texts", expected=limit, got=total)
        if model is not None and model not in self._taggers:
            raise UnknownModelError("unknown model", where="model", expected="one of " + ", ".join(self._taggers), got=model)

    def _choose(self, text: str, model: str | None) -> str:
        """The name of the tagger for a text.

        Raises:
            EmptyTextError, TooLargeError, UnknownScriptError: this one text cannot be tagged.
        """
        if not text or text.isspace():
            got = f"{len(text)} white space characters" if text else "nothing"
            raise EmptyTextError("the text is empty", expected="at least one character that is not white space", got=got)
        if len(text) > self.settings.max_characters:
            limit = f"at most {self.settings.max_characters} characters"
            raise TooLargeError("the text is too long", expected=limit, got=len(text), fix="Cut it between sentences.")
        if model is not None:
            return model
        if (language := script(text)) not in self._defaults:
            known = ", ".join(sorted(self._defaults))
            raise UnknownScriptError("no model for this text's script", expected=f"one of {known}", got=language, fix="Name one.")
        return self._defaults[language]


def load_taggers(folder: Path) -> dict[str, Tagger]:
    """Every tagger bundle below `folder`, by name.

    Raises:
        BundleError: one is damaged, or two have the same name.
    """
    from models.tagger.predictor import Tagger as BundleTagger

    taggers: dict[str, Tagger] = load_bundles(folder, "tagger", BundleTagger.load)
    if not taggers:
        log.warning("no tagger bundle in %s: /tag will answer 503", folder)
    return taggers


def describe(spec: Any) -> dict[str, object]:
    """A bundle's line in ``GET /models``."""
    names = ("name", "task", "languages", "labels", "licence", "figures")
    return {name: getattr(spec, name) for name in names}


def to_result(name: str, languages: Sequence[str], text: str, tagged: TaggedText) -> Result:
    """One text's answer, ready for JSON."""
    language = languages[0] if len(languages) == 1 else script(text)
    return {
        "model": name,
        "language": language,
        "tokens": [_span(token) for token in tagged.tokens],
        "spans": [_span(span) for span in tagged.spans],
    }


def _span(span: TaggedSpan) -> dict[str, object]:
    return {"text": span.text, "start": span.start, "end": span.end, "label": span.label, "confidence": span.confidence}


def _visible(answer: Encoded | Exception) -> Encoded:
    return encode({"error": error_fields(answer)}) if isinstance(answer, Exception) else answer


def _log(error: Exception) -> None:
    if not isinstance(error, ConvoyError):
        log.error("request %s: tagging one text failed", request_id.get(), exc_info=error)


TaggerService = bentoml.service(name="tagger", service_class=ConvoyService, **service_config())(TaggerEndpoints)
