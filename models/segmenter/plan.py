"""The plan: how volumes are prepared for a segmenter's network, in a JSON file that people can read and edit.

Training computes it from the data (``training.segmenter.planning``); a bundle carries it as its preprocessing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.bundle import Bundle
from models.errors import BundleError, ConfigError

MOST_CLASSES = 65_535  # what a label map of 16 bits can hold
Size = tuple[int, int, int]


class Normalisation(BaseModel):
    """What is done to the values.

    Attributes:
        kind: ``volume``: minus the mean of the volume, over its standard deviation (MR, microscopy: values have no unit).
            ``fixed``: cut to ``low`` and ``high``, minus ``mean``, over ``deviation``, all of the training set (CT: Hounsfield
            units).
        low: 0.5 % percentile of the foreground (``fixed``).
        high: 99.5 % percentile.
        mean: of the foreground.
        deviation: standard deviation of the foreground.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    kind: Literal["volume", "fixed"] = "volume"
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    deviation: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = [value is not None for value in (self.low, self.high, self.mean, self.deviation)]
        if self.kind == "fixed" and not all(given):
            raise ValueError("fixed normalisation needs low, high, mean and deviation")
        if self.kind == "volume" and any(given):
            raise ValueError("normalisation by volume takes its figures from each volume: leave out low, high, mean, deviation")
        return self

    @property
    def figures(self) -> tuple[float, float, float, float]:
        """Low, high, mean and deviation of fixed normalisation."""
        low, high, mean, deviation = (cast(float, value) for value in (self.low, self.high, self.mean, self.deviation))
        return low, high, mean, deviation


class Plan(BaseModel):
    """The plan.

    Attributes:
        classes: names, by label; the first is the background.
        spacing: mm (z, y, x) between the voxels that the network sees; None where it sees voxels as they are, whatever their
            size.
        window: voxels (z, y, x) that the network sees at once.
        normalisation: of the values.
        oriented: axes are turned to run upwards, to the front and to the right, so that the network sees all scans alike;
            otherwise they stay as stored.
        overlap: share of a window that the next one repeats.
        skip_below: windows whose normalised values are all below are background without a look; None looks everywhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    classes: list[str] = Field(min_length=2, max_length=MOST_CLASSES)
    spacing: tuple[float, float, float] | None = None
    window: Size
    normalisation: Normalisation = Normalisation()
    oriented: bool = True
    overlap: float = Field(default=0.5, ge=0, lt=1)
    skip_below: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.spacing is not None and min(self.spacing) <= 0:
            raise ValueError(f"spacing {self.spacing} is not above 0 mm")
        if min(self.window) < 1:
            raise ValueError(f"a window of {self.window} voxels")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have one name")
        return self

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan that somebody may have edited; ConfigError names the field that is wrong."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError("cannot read the plan", where=str(path), got=error) from error
        except ValidationError as error:
            place, message, got = _first(error)
            raise ConfigError(message, where=f"{path}: {place}", got=got) from error

    def write(self, path: Path) -> None:
        """Write it for people."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", "utf-8")

    @classmethod
    def of(cls, bundle: Bundle) -> Plan:
        """That of a bundle; BundleError names the field that is wrong."""
        try:
            return cls.model_validate(bundle.spec.preprocessing)
        except ValidationError as error:
            place, message, got = _first(error)
            raise BundleError(message, where=f"{bundle.path}/bundle.json: preprocessing.{place}", got=got) from error


def _first(error: ValidationError) -> tuple[str, str, Any]:
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])), first["msg"], first.get("input")
