"""What ``/docs.json`` says: every route of a service in OpenAPI 3.1, with files, answers, errors and examples as they really are.

BentoML's own description knows no errors but three in a shape that is not ours, none of the routes of `services.routes`, and one
media type an answer. Here each route says itself what it takes and gives: `described` for API methods, `route` for the others.
Their fragments are OpenAPI's, with two conveniences: a pydantic model stands for its schema, and ``{"x-bundles": TASK}`` for the
names of the bundles of that task, which `document` fills in.

`tests/services/test_openapi.py` holds services to it, with requests made up from it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field
from yaml.representer import SafeRepresenter

from models.errors import ConvoyError, InputError, TooLargeError, UnavailableError
from services.batching import BusyError
from services.front import PAGE
from services.http import SlowClientError, TooSlowError
from services.json_body import WrongKindError
from services.keys import KeyMissingError, KeyUnknownError
from services.routes import WEBSOCKET, extra_routes
from services.settings import Settings, listed

Fragment = dict[str, Any]
Method = TypeVar("Method", bound=Callable[..., Any])
Failure = type[ConvoyError]

BINARY: Fragment = {"type": "string", "format": "binary"}
ANY_CALL: tuple[Failure, ...] = (BusyError, TooSlowError)
"""What can happen to every request but the health checks: too many at once, no answer in time."""
BODY: tuple[Failure, ...] = (InputError, WrongKindError, TooLargeError, SlowClientError, UnavailableError)
"""… and to those with a body."""

_MARK = "__convoy_operation__"
_JSON = "application/json"
_REFERENCE = "#/components/schemas/{model}"
_ABOUT = """Tags for the words of texts, voices of recordings, label maps of volumes. \
文本词性标注、语音分离、三维影像分割。

Every error has one shape, `{"error": {"code": …, "message": …, "request_id": …}}`; the message says what is wrong, where, what \
was expected, what came instead and what to do. Each answer carries `X-Request-Id`: the one that was sent, if it is 1 to 128 \
letters, digits, dots, dashes and underscores, else a new one; logs name it. Unknown routes answer 404, wrong methods 405 with \
`Allow`, hosts not served 421, all in the same shape. Bodies are not compressed. WebSockets stand under `x-websockets`."""
_SCHEMES: Fragment = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_MESSAGES = {
    400: "texts: the list is empty: expected at least one element",
    401: "an API key is needed. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    403: "Origin header: pages of other sites are refused: expected the service's own, got https://example.com",
    404: "task_id: no such task: expected the id that submitting answered. Results are kept for 3600 s.",
    408: "the body did not arrive within the time limit: expected at most 60 s. Send less at once.",
    409: "the task is not finished: expected the status completed, got in_progress. Ask again later.",
    410: "task_id: the task was cancelled. Submit it again.",
    413: "body: the body is too large: expected at most 8388608 bytes, got 9000000 bytes. Send several smaller requests.",
    415: "Content-Type header: wrong content type: expected application/json, got text/plain",
    422: "model: unknown model: expected one of tagger-en, tagger-zh, got tagger-fr",
    426: "/separate/stream is a WebSocket: connect to it with ws:// or wss://.",
    429: "too much work is waiting. Send the request again in 1 s.",
    500: "Something went wrong on our side. The service's log has the details under this request id.",
    503: "the service is stopping. Send the request again in a moment.",
    504: "no answer within the time limit: expected at most 60 s. Send less at once or try again later.",
}


class ErrorFields(BaseModel):
    """What went wrong."""

    code: Annotated[str, Field(description="For programs; it does not change.")]
    message: Annotated[str, Field(description="For people: what is wrong, where, what was expected, what came, what to do.")]
    request_id: Annotated[str, Field(description="As in the header X-Request-Id and in the service's log.")]


class Error(BaseModel):
    """The one shape of an error."""

    error: ErrorFields


class Catalogued(BaseModel):
    """A bundle that answers; what else there is depends on its task."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(description="What requests call `model`.")]
    task: Annotated[str, Field(examples=["tagger", "separator", "segmenter"])]
    licence: str | None
    figures: Annotated[dict[str, Any], Field(description="What it reached on data that it was not trained on.")]


class Catalogue(BaseModel):
    """The bundles that answer."""

    models: list[Catalogued]


class Description(dict[str, Any]):
    """An OpenAPI document, as BentoML asks for it."""

    def asdict(self) -> Fragment:
        return dict(self)


yaml.add_representer(Description, SafeRepresenter.represent_dict)  # how BentoML writes it into a bento


def described(operation: Mapping[str, Any]) -> Callable[[Method], Method]:
    """What OpenAPI says of an API method beside its docstring; to be put below ``@bentoml.api``."""

    def mark(function: Method) -> Method:
        setattr(function, _MARK, operation)
        return function

    return mark


def answer(description: str, content: Mapping[str, Any], headers: Mapping[str, Fragment] | None = None) -> Fragment:
    """A good answer: its media types, each with a schema or with OpenAPI's media type object."""
    kinds = {kind: each if isinstance(each, dict) and "schema" in each else {"schema": each} for kind, each in content.items()}
    return {"description": description, "headers": {**_REQUEST_ID, **(headers or {})}, "content": kinds}


def failures(kinds: Iterable[Failure], also: Mapping[int, str] | None = None) -> Fragment:
    """The answers that errors of these kinds make: one a status, with the codes that can come. A fault of ours (500) always can.

    Args:
        kinds: classes of `models.errors` and of the services.
        also: codes by status of errors that have no class.
    """
    codes: dict[int, set[str]] = {500: {"internal"}}
    for kind in kinds:
        codes.setdefault(kind.status, set()).add(kind.code)
    for status, code in (also or {}).items():
        codes.setdefault(status, set()).add(code)
    return {str(status): _failure(status, sorted(codes[status])) for status in sorted(codes)}


_REQUEST_ID: Fragment = {
    "X-Request-Id": {"required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}},
}
_RETRY_AFTER: Fragment = {"Retry-After": {"required": True, "description": "Seconds.", "schema": {"type": "integer"}}}


def _failure(status: int, codes: Sequence[str]) -> Fragment:
    schema = {"allOf": [Error, {"properties": {"error": {"properties": {"code": {"enum": list(codes)}}}}}]}
    example = {"error": {"code": codes[0], "message": _MESSAGES[status], "request_id": "5b070cda6173480eb5f55bcfdad17372"}}
    later = _RETRY_AFTER if status in {429, 503} else {}
    description = f"{HTTPStatus(status).phrase}: {', '.join(f'`{code}`' for code in codes)}."
    content = {_JSON: {"schema": schema, "example": example}}
    return {"description": description, "headers": {**_REQUEST_ID, **later}, "content": content}


def form_body(form: type[BaseModel], file: str, kinds: Sequence[str]) -> Fragment:
    """What a route takes that reads an upload: a form, or the bare file with the form's other fields in the query.

    Args:
        form: its fields, the file's included.
        file: the file's field.
        kinds: media types of the file.
    """
    schema = _flat(form.model_json_schema(ref_template=_REFERENCE))
    # The file is mostly called what it is; what it is called does not matter.
    parts = {"schema": schema, "encoding": {file: {"contentType": ", ".join(kinds)}}}
    bare = {kind: {"schema": BINARY} for kind in kinds}
    fields = {name: field for name, field in schema["properties"].items() if name != file}
    return {
        "parameters": [_query(name, field) for name, field in fields.items()],
        "requestBody": {"required": True, "content": {"multipart/form-data": parts, **bare}},
    }


def socket(protocol: str, form: type[BaseModel], errors: Sequence[Failure], refusals: Sequence[Failure]) -> Fragment:
    """Of a WebSocket, in the terms of OpenAPI, which cannot describe one: how it is opened, and the rest in words.

    Args:
        protocol: what is said by whom.
        form: the query.
        errors: what is said once it is open.
        refusals: why it may not be opened.
    """
    fields = _flat(form.model_json_schema(ref_template=_REFERENCE))["properties"]
    parameters = [{"name": name, "in": "query", "schema": field} for name, field in fields.items()]
    codes = ", ".join(f"`{code}`" for code in sorted({error.code for error in errors} | {"internal"}))
    opened = f"Opened. What is wrong with the query or a message is said in a text message, in the shape of errors: {codes}."
    refused = failures((*ANY_CALL, *refusals), also={HTTPStatus.UPGRADE_REQUIRED: "upgrade_required"})
    return {"description": protocol, "parameters": parameters, "responses": {"101": {"description": opened}, **refused}}


def _query(name: str, schema: Fragment) -> Fragment:
    note = " For a bare file; a form's own field goes before it."
    about = {key: value for key, value in schema.items() if key not in {"title", "description"}}
    return {"name": name, "in": "query", "description": schema.get("description", "") + note, "schema": about}


def _flat(schema: Fragment) -> Fragment:
    """A form's schema: its fields are texts, never null."""

    def flat(field: Fragment) -> Fragment:
        choices = [each for each in field.get("anyOf", ()) if each != {"type": "null"}]
        rest = {key: value for key, value in field.items() if key != "anyOf" and (key, value) != ("default", None)}
        return rest | choices[0] if len(choices) == 1 else field

    return schema | {"properties": {name: flat(field) for name, field in schema["properties"].items()}}


# ---- the whole document -----------------------------------------------------------------------------------------------


def document(service: Any, catalogue: Iterable[Mapping[str, Any]] = (), settings: Settings | None = None) -> Description:
    """The description of a `services.service.ConvoyService`.

    Args:
        service: what is described.
        catalogue: the bundles that it has loaded, as ``GET /models`` lists them; a service that does not run yet has none.
        settings: which say whether keys are needed; a service that does not run yet has none.
    """
    names: dict[str, list[str]] = {}
    for each in catalogue:
        names.setdefault(str(each["task"]), []).append(str(each["name"]))
    finder = _Finder(names)
    routes, streams = _own_routes() | _task_routes(service), _sockets(service)
    keyed = settings is not None and bool(settings.api_keys or settings.api_keys_file)
    if settings is not None and keyed:
        routes, streams = _with_keys(routes, settings), {path: _with_key(stream) for path, stream in streams.items()}
    paths, sockets = finder.resolve(routes), finder.resolve(streams)
    info = {"title": "Convoy", "version": _version(service), "description": _ABOUT, "license": {"name": "Apache-2.0"}}
    components = {"schemas": dict(sorted(finder.schemas.items()))} | ({"securitySchemes": _SCHEMES} if keyed else {})
    about = {"openapi": "3.1.0", "info": info, "servers": [{"url": "/"}], "paths": paths, "components": components}
    return Description(about | ({"x-websockets": sockets} if sockets else {}))


def _with_keys(routes: Mapping[str, Fragment], settings: Settings) -> dict[str, Fragment]:
    """The same routes, of which all need a key but those that are left open."""
    left_open = set(listed(settings.open_paths))
    return {
        path: item
        if path in left_open or PAGE.fullmatch(path)
        else {verb: _with_key(operation) for verb, operation in item.items()}
        for path, item in routes.items()
    }


def _with_key(operation: Fragment) -> Fragment:
    refused = {"401": failures([KeyMissingError, KeyUnknownError])["401"]}
    security: list[Fragment] = [{name: []} for name in _SCHEMES]
    return operation | {"security": security, "responses": dict(sorted({**operation["responses"], **refused}.items()))}


def _version(service: Any) -> str:
    """The bento's, or that of the checkout."""
    if service.bento is not None:
        return str(service.bento.tag.version)
    try:
        return importlib.metadata.version("convoy")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _task_routes(service: Any) -> dict[str, Fragment]:
    paths: dict[str, Fragment] = {}
    for method in service.apis.values():
        paths.setdefault(method.route, {})["post"] = _operation(method.func, getattr(method.func, _MARK, {}), method.route)
    for found in extra_routes(service.inner):
        if found.method != WEBSOCKET:
            function = getattr(service.inner, found.name)
            paths.setdefault(found.path, {})[found.method.lower()] = _operation(function, found.operation, found.path)
    return dict(sorted(paths.items()))


def _sockets(service: Any) -> dict[str, Fragment]:
    found = [each for each in extra_routes(service.inner) if each.method == WEBSOCKET]
    return {each.path: _operation(getattr(service.inner, each.name), each.operation, each.path) for each in found}


def _operation(function: Callable[..., Any], operation: Mapping[str, Any], path: str) -> Fragment:
    """What is written beside a method, with its docstring: the first sentence is the summary."""
    text = " ".join((function.__doc__ or "").split())
    return {"tags": [path.split("/")[1]], "summary": text.split(". ")[0].rstrip("."), "description": text} | {
        "operationId": function.__name__,
        **operation,
    }


def _own_routes() -> dict[str, Fragment]:
    """The routes that every service has."""
    health = {"200": answer("Yes.", {"text/plain": {"type": "string"}})}
    starting = {"500": {"description": "Not yet, or no more.", "headers": _REQUEST_ID}}
    figures = {"200": answer("Figures.", {"text/plain": {"type": "string"}})}
    bundles = "The bundles that answer, each with what its task has: languages, labels …"
    return {
        "/": _get("page", "The page", _given("text/html", {"type": "string"})),
        "/models": _get("models", bundles, _given(_JSON, Catalogue)),
        "/docs.json": _get("docs", "This description", _given(_JSON, {"type": "object"})),
        "/livez": _get("livez", "Whether the process lives", health),
        "/readyz": _get("readyz", "Whether requests are answered", health | starting),
        "/healthz": _get("healthz", "As /livez", health),
        "/metrics": _get("metrics", "Figures for Prometheus", figures),
    }


def _given(kind: str, schema: Any) -> Fragment:
    return {"200": answer("It.", {kind: schema}), **failures(ANY_CALL)}


def _get(name: str, summary: str, responses: Fragment) -> Fragment:
    return {"get": {"tags": ["service"], "operationId": name, "summary": summary, "responses": responses}}


class _Finder:
    """Replaces models in fragments by references, and collects their schemas."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._names = names
        self.schemas: dict[str, Fragment] = {}

    def resolve(self, node: Any) -> Any:
        if isinstance(node, type) and issubclass(node, BaseModel):
            return self._reference(node)
        if isinstance(node, Mapping):
            resolved = {key: self.resolve(value) for key, value in node.items()}
            return self._with_names(resolved) if "x-bundles" in resolved else resolved
        return [self.resolve(each) for each in node] if isinstance(node, list | tuple) else node

    def _reference(self, model: type[BaseModel]) -> Fragment:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        for name, definition in schema.pop("$defs", {}).items():
            self.schemas[name] = self.resolve(definition)
        self.schemas[model.__name__] = self.resolve(schema)
        return {"$ref": _REFERENCE.format(model=model.__name__)}

    def _with_names(self, node: Fragment) -> Fragment:
        """The names that the text, or the text in a choice of types, can be."""
        names = self._names.get(node.pop("x-bundles"), [])
        for place in (node, *node.get("anyOf", ())):
            if names and place.get("type") == "string":
                place["enum"] = list(names)
        return node
