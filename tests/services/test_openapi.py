"""What ``/docs.json`` says is true: its parts here, and a real server held to it with requests that schemathesis makes up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import serving
import yaml
from pydantic import BaseModel

from models.errors import AudioEmptyError, InputError, TooLargeError
from services.batching import BusyError
from services.gateway import Gateway
from services.openapi import Description, document, failures
from services.segmenter import SegmenterService
from services.separator import SeparatorService
from services.settings import Settings
from services.tagger import TaggerService

SERVICES = [Gateway, TaggerService, SeparatorService, SegmenterService]


@pytest.fixture(scope="module")
def description() -> Description:
    catalogue = [{"task": "tagger", "name": "tagger-zh"}, {"task": "separator", "name": "separator-a"}]
    return document(Gateway, catalogue)


def references(node):
    if isinstance(node, dict):
        yield from [node["$ref"]] if "$ref" in node else []
        yield from (found for child in node.values() for found in references(child))
    elif isinstance(node, list):
        yield from (found for child in node for found in references(child))


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_describes_every_route_and_all_that_it_refers_to(service):
    found = document(service)
    schemas = found["components"]["schemas"]
    assert {reference.rsplit("/", 1)[1] for reference in references(found)} == set(schemas)
    assert {method.route for method in service.apis.values()} < set(found["paths"])
    operations = [operation for item in found["paths"].values() for operation in item.values()]
    assert all(operation["responses"] and operation["summary"] for operation in operations)
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert json.loads(json.dumps(found)) == found


def test_a_task_alone_tells_of_itself_only():
    assert not [path for path in document(TaggerService)["paths"] if path.startswith(("/separate", "/segment"))]


def test_a_bento_holds_it_as_plain_yaml():
    assert yaml.safe_load(yaml.dump(Gateway.openapi_spec)) == Gateway.openapi_spec.asdict()


def test_uploads_are_forms_or_bare_files_with_their_fields_in_the_query(description):
    operation = description["paths"]["/separate"]["post"]
    body = operation["requestBody"]["content"]
    assert {"multipart/form-data", "audio/wav", "audio/flac", "application/octet-stream"} <= set(body)
    schema = body["multipart/form-data"]["schema"]
    assert schema["required"] == ["audio"]
    assert schema["properties"]["audio"]["format"] == "binary"
    assert schema["additionalProperties"] is False
    fields = {parameter["name"] for parameter in operation["parameters"]}
    assert fields == set(schema["properties"]) - {"audio"}


def test_models_are_those_that_answer(description):
    schemas = description["components"]["schemas"]
    assert schemas["TagRequest"]["properties"]["model"]["anyOf"][0]["enum"] == ["tagger-zh"]
    form = description["paths"]["/separate"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["model"]["enum"] == ["separator-a"]
    assert "x-bundles" not in json.dumps(description)


def test_errors_are_told_by_route_and_status(description):
    assert codes(description, "/separate", "post", 400) >= {"audio_empty", "form_malformed", "file_expected", "input_invalid"}
    assert codes(description, "/separate/get", "get", 409) == {"task_unfinished"}
    assert not codes(description, "/separate", "post", 400) & {"volume_unreadable"}
    assert codes(description, "/segment", "post", 413) == {"too_large", "volume_too_large"}
    assert codes(description, "/segment/get", "get", 422) >= {"unprocessable", "volume_shape"}  # a task's errors are its result
    assert "404" not in description["paths"]["/tag"]["post"]["responses"]


def codes(description, path, verb, status):
    schema = description["paths"][path][verb]["responses"][str(status)]["content"]["application/json"]["schema"]
    return set(schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"])


def test_keys_are_told_of_where_they_are_needed():
    found = document(Gateway, settings=Settings(api_keys="a: 0123456789abcdef", open_paths="/livez"))
    needs = {path for path, item in found["paths"].items() for operation in item.values() if operation.get("security")}
    assert set(found["paths"]) - needs == {"/", "/livez"}
    assert codes(found, "/tag", "post", 401) == {"key_missing", "key_unknown"}
    assert set(found["components"]["securitySchemes"]) == {"bearer", "header"}
    assert found["x-websockets"]["/separate/stream"]["security"]
    assert "security" not in json.dumps(document(Gateway, settings=Settings()))


def test_websockets_stand_beside_the_paths(description):
    stream = description["x-websockets"]["/separate/stream"]
    assert {parameter["name"] for parameter in stream["parameters"]} == {"sample_rate", "format", "model"}
    assert '{"type": "end"}' in stream["description"]
    assert "stream_malformed" in stream["responses"]["101"]["description"]
    assert "/separate/stream" not in description["paths"]


def test_failures_of_one_status_share_an_answer():
    found = failures([InputError, AudioEmptyError, TooLargeError, BusyError], also={426: "upgrade_required"})
    assert list(found) == ["400", "413", "426", "429", "500"]
    assert found["429"]["headers"]["Retry-After"]["required"]
    assert "Retry-After" not in found["400"]["headers"]
    assert issubclass(found["400"]["content"]["application/json"]["schema"]["allOf"][0], BaseModel)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> serving.Server:
    """The gateway over the published bundles."""
    folder = tmp_path_factory.mktemp("published")
    with serving.serving("services.gateway:Gateway", folder, {"CONVOY_BUNDLES": "", "CONVOY_MAX_TASKS": "10000"}) as running:
        yield running


def test_schemathesis_finds_no_violation(published, tmp_path):
    here = Path(__file__).parent
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(here / "schemathesis.toml")),
        *("run", f"{published.url}/docs.json", "--checks", "all", "-n", "8", "--seed", "1", "--continue-on-failure"),
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(here / "schemathesis_hooks.py"), "PYTHONPATH": ""}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Stateful (disabled)" not in ran.stdout


def test_it_names_the_models_that_answer(published):
    described = httpx.get(f"{published.url}/docs.json").raise_for_status().json()
    names = [each["name"] for each in httpx.get(f"{published.url}/models").json()["models"] if each["task"] == "tagger"]
    assert described["components"]["schemas"]["TagRequest"]["properties"]["model"]["anyOf"][0]["enum"] == names


@pytest.mark.parametrize("language", ["english", "中文"])
def test_its_examples_are_real(published, language):
    operation = httpx.get(f"{published.url}/docs.json").json()["paths"]["/tag"]["post"]
    question = operation["requestBody"]["content"]["application/json"]["examples"][language]["value"]
    expected = operation["responses"]["200"]["content"]["application/json"]["examples"][language]["value"]
    found = httpx.post(f"{published.url}/tag", json=question).raise_for_status().json()
    for result in (*found["results"], *expected["results"]):
        assert all(token.pop("confidence") > 0.9 for token in result["tokens"])  # of which the digits depend on the processor
    assert found == expected


@pytest.mark.parametrize(
    ("path", "file", "model"), [("/separate", "audio", "separator-2speakers"), ("/segment", "volume", "segmenter-hippocampus")]
)
def test_a_wrong_model_in_the_query_is_told_also_where_the_form_names_a_right_one(published, path, file, model):
    answer = httpx.post(f"{published.url}{path}?model=none", files={file: ("a", b"RIFF")}, data={"model": model})
    serving.assert_error(answer, 422, "model: unknown model")
