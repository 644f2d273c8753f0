"""Options that several commands of the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

READABLE_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LOCAL_PATH = click.Path(path_type=Path)
BUNDLE_OPTION = click.option("--bundle", help="Folder, address or BentoML tag.  [default: one from pretrained/]")


def _ratios(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(number) for number in text.split(",")]
    except ValueError as problem:
        raise click.BadParameter(f"expected numbers such as 0.8,0.1,0.1, got {text!r}") from problem


def _settings(ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE as keyword arguments; VALUE is JSON where it is JSON, else a string."""
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise click.BadParameter(f"expected NAME=VALUE, got {text!r}")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def numbers_by_axis(ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, list[int]]:
    """AXIS=N,N,… as numbers by axis."""
    found: dict[str, list[int]] = {}
    for text in texts:
        axis, _, numbers = text.partition("=")
        try:
            found.setdefault(axis.strip().lower(), []).extend(int(number) for number in numbers.split(","))
        except ValueError as problem:
            raise click.BadParameter(f"expected AXIS=N,N,… such as z=20,40, got {text!r}") from problem
        if axis.strip().lower() not in ("z", "y", "x"):
            raise click.BadParameter(f"expected an axis z, y or x, got {text!r}")
    return found


def corpus_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which data, and which part of them; what is not given is left to the function that reads them."""
    options = [
        click.option("--format", help="conllu, columns, jsonl, slash…  [default: by suffix and content]"),
        click.option("--ratios", callback=_ratios, metavar="R,R,…", help="Split the data so and use one --part."),
        click.option("--part", type=int, help="Which part, counted from 0; -1 is the last."),
        click.option("--contiguous", is_flag=True, default=None, help="Split in stretches of neighbours, not at random."),
        click.option("--seed", type=int, help="Seed of the random numbers.  [default: 1]"),
        click.option(
            "--option",
            "more",
            multiple=True,
            callback=_settings,
            metavar="NAME=VALUE",
            help="Any other setting of the reader or the task, such as fold_width=true or column=ner; may be repeated.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What was given of them, further ones included."""
    more: dict[str, Any] = settings.pop("more")
    return {name: value for name, value in settings.items() if value is not None} | more
