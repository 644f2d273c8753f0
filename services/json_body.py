"""Reading JSON bodies strictly and writing JSON that always encodes.

BentoML's own reading takes any content type (a form, a pickle, an address to fetch), lets pydantic say in its own words what was
wrong, and cannot tell a client's ``ValidationError`` from one of ours. `JsonRequest` replaces it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Self, TypeVar

from _bentoml_sdk import IODescriptor
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json
from starlette.requests import Request
from starlette.responses import Response

from models.errors import InputError, shorten

_LONGEST_NUMBER = 40  # digits; nothing we read needs more, and int() of a long one takes quadratic time


class WrongKindError(InputError):
    """The body is of a kind (media type, charset, compression) that the endpoint does not read."""

    code, status = "wrong_kind", 415


def encode(content: object) -> bytes:
    """JSON in UTF-8 that always encodes: NaN becomes null; a lone surrogate, which UTF-8 cannot hold, its JSON escape."""
    try:
        return to_json(content, inf_nan_mode="null")  # three times as fast as the standard library
    except PydanticSerializationError:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def json_response(content: object, status: int = 200) -> Response:
    """An answer in JSON; see `encode`."""
    return Response(encode(content), status_code=status, media_type="application/json")


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], content: object) -> Model:
    """The model made of what was parsed.

    Raises:
        InputError: a field is missing, unknown or of the wrong type; the message names it, what was expected and what came.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False), list(model.model_fields)) from None


class JsonRequest(IODescriptor):
    """Base of the bodies of JSON endpoints: ``@bentoml.api(input_spec=…)``. Types are strict and unknown fields are refused.

    BentoML's own reading would take any content type (a form, a pickle, a URL to fetch) and lose what was wrong where.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:
        """Read and check the body.

        Raises:
            WrongKindError: it is not JSON in UTF-8, by its headers.
            TooLargeError: it is over the limit.
            InputError: malformed JSON or UTF-8, a lone surrogate, wrong types or fields.
        """
        _check_kind(request.headers)
        return checked(cls, parse_json(await request.body()))


def parse_json(body: bytes) -> object:
    """Strict JSON: UTF-8, finite numbers of at most 40 characters, no lone surrogates, nesting within the parser's depth.

    Raises:
        InputError: with the place of the first fault.
    """
    try:
        content = json.loads(
            body.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_int=_bounded_int, parse_float=_bounded_float
        )
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x}"
        raise InputError("not valid UTF-8", where=f"body, byte {error.start}", expected="text in UTF-8", got=found) from None
    except json.JSONDecodeError as error:
        where = f"body, line {error.lineno} column {error.colno}"
        raise InputError(f"not valid JSON ({error.msg})", where=where, expected="a JSON object") from None
    except RecursionError:
        raise InputError("nested too deeply", where="body", expected="a flat JSON object") from None
    for path, text in _strings(content):
        _check_surrogates(path, text)
    return content


def _check_kind(headers: Mapping[str, str]) -> None:
    kind, _, parameters = headers.get("content-type", "application/json").partition(";")
    if kind.strip().lower() != "application/json":
        raise WrongKindError("wrong content type", where="Content-Type header", expected="application/json", got=kind.strip())
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower().replace("-", "") not in {"utf8", "usascii"}:
        raise WrongKindError("wrong charset", where="Content-Type header", expected="utf-8", got=charset[1])
    check_coding(headers)


def check_coding(headers: Mapping[str, str]) -> None:
    """Refuse compressed bodies: what they hold could be of any size.

    Raises:
        WrongKindError: the body is compressed.
    """
    if (coding := headers.get("content-encoding", "identity").strip().lower()) != "identity":
        where, problem = "Content-Encoding header", "compressed bodies are not read"
        raise WrongKindError(problem, where=where, expected="no compression", got=coding)


def _refuse_constant(name: str) -> float:
    raise InputError("not a JSON number", where="body", expected="finite numbers", got=name)


def _bounded_int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        limit = f"at most {_LONGEST_NUMBER} digits"
        raise InputError("a number is too long", where="body", expected=limit, got=f"{len(digits)} digits")
    return int(digits)


def _bounded_float(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse_constant(shorten(digits, 40))


def _strings(content: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string below `content` with its place, such as ``texts[3]``; iterative, so that depth does not matter."""
    stack = [(path, content)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, list):
            stack.extend((f"{path}[{position}]", child) for position, child in enumerate(value))
        elif isinstance(value, dict):
            for key, child in value.items():
                yield "a field's name", key
                stack.append((f"{path}.{key}" if path else key, child))


def _check_surrogates(path: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"{shorten(path, 80) or 'body'}, character {error.start}"
        problem = "a lone surrogate, which is no character"
        raise InputError(problem, where=where, expected="surrogates in pairs", got=f"\\u{ord(text[error.start]):04x}") from None


_EXPECTED = {
    "string_type": "a string",
    "list_type": "a list",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "dict_type": "an object",
    "model_type": "a JSON object",
}


def _explain(details: list[ErrorDetails], known: list[str]) -> InputError:
    """The first of pydantic's errors as ours: which field, what was expected, what came."""
    first = details[0]
    where = _place(first["loc"]) or "body"
    more = f"There are {len(details) - 1} more such errors" if len(details) > 1 else ""
    match first["type"]:
        case "missing":
            return InputError("the field is missing", where=where, fix=more)
        case "extra_forbidden":
            return InputError("unknown field", where=where, expected="one of " + ", ".join(known), fix=more)
        case "too_short":
            return InputError("the list is empty", where=where, expected="at least one element", fix=more)
        case "literal_error":
            return InputError(
                "wrong value", where=where, expected=first["ctx"]["expected"], got=json_kind(first["input"]), fix=more
            )
        case kind:
            expected, got = _EXPECTED.get(kind, first["msg"]), json_kind(first["input"])
            return InputError("wrong type or value", where=where, expected=expected, got=got, fix=more)


def _place(location: Iterable[int | str]) -> str:
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{shorten(step, 80)}" for step in location)
    return steps.removeprefix(".")


def json_kind(value: object) -> str:
    """The JSON name of a value's type, with the value where it is short: ``the number 3``, ``a list``."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the string {shorten(json.dumps(value, ensure_ascii=False), 60)}"
        case list():
            return "a list"
        case _:
            return "an object"
