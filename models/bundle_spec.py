"""What bundle.json says, field by field; `models/bundle.py` reads and writes the folder around it."""

from __future__ import annotations

import json
import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from models.errors import BundleError

FORMAT_VERSION = 1
MANIFEST = "bundle.json"

_PORTABLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Words = Annotated[str, Field(min_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_by_name=True)


class NetworkSpec(_Record):
    """The class that fine-tuning builds, as `module:Class` or a bare class name, and its keyword arguments."""

    class_name: Words = Field(alias="class")
    arguments: dict[str, JsonValue]


class DataSource(_Record):
    """One data set the network was trained on, and the part of it that was used."""

    name: Words
    source: Words
    licence: Words
    part: Words


class TrainingSpec(_Record):
    """What the network was trained on, and the command or configuration that repeats it."""

    data: list[DataSource]
    recipe: str


class PrecisionParity(_Record):
    """Largest difference from the torch network by the precision it ran in; null where it was not measured."""

    f32: float = Field(ge=0)
    bf16: float | None = Field(default=None, ge=0)


class ParitySpec(_Record):
    """How far the exported network's output is from the torch network's on random input (in the output's own unit)."""

    max_abs_difference: float = Field(ge=0)
    precision: PrecisionParity


class FileSpec(_Record):
    """Digest and size of one file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class BundleSpec(_Record):
    """Everything bundle.json says. `write_bundle` fills in `files`."""

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    task: Identifier
    name: Words
    languages: list[Words]
    labels: list[Words]
    preprocessing: dict[str, JsonValue]
    network: NetworkSpec
    training: TrainingSpec
    licence: Words
    figures: dict[str, JsonValue]
    parity: ParitySpec
    files: dict[str, FileSpec] = Field(default_factory=dict)

    @field_validator("labels", "languages")
    @classmethod
    def _unique(cls, values: list[str]) -> list[str]:
        twice = sorted({value for value in values if values.count(value) > 1}) if len(set(values)) < len(values) else []
        if twice:
            raise ValueError(f"{', '.join(twice)} given more than once")
        return values

    @field_validator("files")
    @classmethod
    def _safe_names(cls, files: dict[str, FileSpec]) -> dict[str, FileSpec]:
        for name in files:
            check_name(name)
        if len({name.lower() for name in files}) < len(files):
            raise ValueError("two names differ in case only, which some file systems cannot hold")
        return files

    def to_json(self) -> str:
        """The text of bundle.json.

        Raises:
            BundleError: a number is infinite or not a number, which JSON cannot hold.
        """
        try:
            return json.dumps(self.model_dump(by_alias=True), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
        except ValueError as problem:
            fix = "Leave out figures and settings that are infinite or not a number."
            raise BundleError("bundle.json cannot be written", where=self.name, got=problem, fix=fix) from problem

    @classmethod
    def from_json(cls, content: bytes, where: str) -> Self:
        """Read and check the bytes of bundle.json; `where` is what error messages call it.

        Raises:
            BundleError: it is not JSON, of a later format version, or a field is wrong, missing or unknown.
        """
        try:
            version = _Version.model_validate_json(content).format_version
            if version > FORMAT_VERSION:
                raise BundleError(
                    "the bundle was written by a later version of Convoy",
                    where=f"{where}: format_version",
                    expected=f"at most {FORMAT_VERSION}",
                    got=version,
                    fix="Update Convoy (`git pull`, then `make serve`), or export the bundle again with this version.",
                )
            return cls.model_validate_json(content)
        except ValidationError as problem:
            raise _field_error(problem, where) from problem


class _Version(BaseModel):
    """Read first and alone, so that a later format is recognised whatever else it changed."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format_version: int


def check_name(name: str) -> None:
    """Refuse with ValueError what could lead out of the folder or cannot be a file name everywhere."""
    parts = name.split("/")
    if not all(_PORTABLE_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"unsafe file name {name!r}: expected letters, digits, '.', '-' and '_', folders separated by '/'")
    if name.lower() == MANIFEST:
        raise ValueError(f"{MANIFEST} describes the other files and is not one of them")


def _field_error(problem: ValidationError, where: str) -> BundleError:
    """Name the wrong fields, five at most, each with its path and what is wrong with it."""
    errors = problem.errors(include_url=False, include_context=False)
    fields = [".".join(str(part) for part in error["loc"]) or "the file" for error in errors]
    listed = "; ".join(f"{field}: {error['msg']}" for field, error in zip(fields[:5], errors[:5], strict=True))
    more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
    got = errors[0]["input"] if len(errors) == 1 and errors[0]["type"] not in {"missing", "json_invalid"} else None
    fix = "Export the bundle again, or correct the file by hand."
    return BundleError(f"{listed}{more}", where=where, got=None if got is None else repr(got), fix=fix)
