"""Settings from the command line, checked against the function that takes them; folders for what it writes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from models.errors import ConfigError

SHOWN_APART = ("out",)  # options of their own on the command line


def checked(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, if the function takes each of them by keyword and their types are those of its annotations.

    Raises:
        ConfigError: the function takes no such setting, or none of this type.
    """
    parameters = inspect.signature(function).parameters.values()
    names = [each.name for each in parameters if each.kind == inspect.Parameter.KEYWORD_ONLY and each.name not in SHOWN_APART]
    takes_more = any(each.kind == inspect.Parameter.VAR_KEYWORD for each in parameters)
    if not takes_more and (unknown := [name for name in settings if name not in names]):
        raise ConfigError("no such setting here", where=", ".join(unknown), expected=", ".join(names))
    hints = get_type_hints(function)
    for name, value in settings.items():
        if name in names:
            try:
                TypeAdapter(hints[name]).validate_python(value, strict=True)
            except ValidationError as error:
                raise ConfigError("a setting has the wrong type", where=name, expected=_first(error), got=value) from error
    return dict(settings)


def output_folder(path: Path) -> Path:
    """Make a folder to write into.

    Raises:
        ConfigError: it cannot be made, such as where a file is in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("cannot be made a folder", where=str(path), got=error, fix="Name another one.") from error
    return path


def _first(error: ValidationError) -> str:
    message = error.errors()[0]["msg"]
    return message.removeprefix("Input should be ").removeprefix("a valid ")
