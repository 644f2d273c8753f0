"""The tagger's endpoint over fake taggers, called without a server."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from fake_service import FakeTagger, fake_taggers
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from models.errors import TooLargeError, UnavailableError, UnprocessableError
from services.http import status_of
from services.settings import Settings
from services.tagger import TaggerEndpoints, default_names


def ask(texts, model=None, taggers=None, **limits):
    """The answer's JSON."""

    async def main() -> Response:
        endpoints = TaggerEndpoints(fake_taggers() if taggers is None else taggers, Settings(**limits))
        try:
            return await endpoints.tag(texts=texts, model=model)
        finally:
            await endpoints.close_batchers()

    return json.loads(asyncio.run(main()).body)


def test_each_text_goes_to_the_bundle_of_its_script_and_results_keep_their_order():
    answer = ask(["Ada Lovelace", "我爱北京", "London"])
    assert answer["models"] == ["tagger-en", "tagger-zh"]
    assert [(result["model"], result["language"]) for result in answer["results"]] == [
        ("tagger-en", "en"),
        ("tagger-zh", "zh"),
        ("tagger-en", "en"),
    ]
    assert answer["results"][0]["tokens"][1] == {"text": "Lovelace", "start": 4, "end": 12, "label": "8", "confidence": 0.5}


def test_a_named_model_takes_every_text():
    answer = ask(["Ada", "我"], model="tagger-zh")
    assert answer["models"] == ["tagger-zh"]
    assert {result["model"] for result in answer["results"]} == {"tagger-zh"}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=8))
def test_offsets_are_code_points_and_every_text_has_its_answer(texts):
    if all(not text or text.isspace() for text in texts):
        return
    answer = ask(texts)
    assert len(answer["results"]) == len(texts)
    for text, result in zip(texts, answer["results"], strict=True):
        if not text or text.isspace():
            assert result["error"]["code"] == "text_empty"
        else:
            assert all(text[token["start"] : token["end"]] == token["text"] for token in result["tokens"])


def test_an_error_for_one_text_leaves_its_neighbours_alone(caplog):
    with caplog.at_level(logging.ERROR):
        results = ask(["good", "", "BOOM", "x" * 60, " \n\t", "better"], max_characters=50)["results"]
    assert [result.get("error", {}).get("code") for result in results] == [
        None,
        "text_empty",
        "internal",
        "too_large",
        "text_empty",
        None,
    ]
    assert results[5]["tokens"][0]["text"] == "better"
    assert "a bug of ours" in caplog.text
    assert "a bug of ours" not in json.dumps(results)


@pytest.mark.parametrize(
    ("texts", "model", "status", "said"),
    [
        ([""], None, 422, "at least one character"),
        (["", "  "], "tagger-en", 422, "at least one character"),
        (["x" * 51], None, 413, "at most 50 characters, got 51"),
        (["a"] * 6, None, 413, "at most 5, got 6"),
        (["x" * 50] * 4, None, 413, "at most 150 characters in all, got 200"),
        (["a"], "tagger-fr", 422, "expected one of tagger-en, tagger-zh, got tagger-fr"),
    ],
)
def test_a_call_in_which_nothing_can_be_tagged_fails_with_the_reason(texts, model, status, said):
    with pytest.raises((UnprocessableError, TooLargeError)) as caught:
        ask(texts, model, max_characters=50, max_texts=5, max_total_characters=150)
    assert status_of(caught.value) == status
    assert said in caught.value.message


def test_a_bug_on_every_text_is_our_error():
    with pytest.raises(ZeroDivisionError):
        ask(["BOOM", ""])


def test_a_script_without_a_bundle_is_named():
    with pytest.raises(UnprocessableError, match="expected one of en, got zh"):
        ask(["我爱北京"], taggers={"tagger-en": FakeTagger("tagger-en", ["en"])})
    assert ask(["我"], "tagger-en", {"tagger-en": FakeTagger("tagger-en", ["en"])})["models"] == ["tagger-en"]


def test_without_bundles_the_service_says_so():
    with pytest.raises(UnavailableError, match="no tagger bundle is loaded"):
        ask(["a"], taggers={})


def test_calls_of_one_moment_share_a_batch_of_one_bundle():
    taggers = fake_taggers()

    async def main():
        endpoints = TaggerEndpoints(taggers, Settings())
        await asyncio.gather(*(endpoints.tag(texts=[text]) for text in ("a", "b", "c", "我")))
        await endpoints.close_batchers()

    asyncio.run(main())
    assert taggers["tagger-en"].batches == [3]
    assert taggers["tagger-zh"].batches == [1]


def test_the_default_of_a_language():
    names = {"ner-en": ["en"], "tagger-en": ["en"], "a-both": ["en", "zh"], "b-zh": ["zh"]}
    assert default_names(names) == {"en": "tagger-en", "zh": "a-both"}
    assert default_names({}) == {}


def test_the_catalogue_lists_what_is_loaded():
    catalogue = TaggerEndpoints(fake_taggers(), Settings()).catalogue
    assert [entry["name"] for entry in catalogue] == ["tagger-en", "tagger-zh"]
    assert catalogue[0]["figures"] == {"accuracy": 1.0}
