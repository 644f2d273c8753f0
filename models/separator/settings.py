"""What a separator's bundle says of its preprocessing."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.bundle import Bundle
from models.errors import BundleError

MOST_SOURCES = 8  # all orders of the voices are compared where windows are joined: 8! = 40,320


class SeparatorPreprocessing(BaseModel):
    """What ``bundle.json`` says under ``preprocessing``.

    Attributes:
        sample_rate: of the network, in Hz.
        sources: names of the voices, in the order of the network's outputs.
        causal: the network looks at nothing that comes later; ``network.onnx`` is one step of a stream.
        length: L, samples of a filter.
        hop: samples between two frames.
        lead: zeros that the network puts before the recording: L − hop, or none.
        window_seconds: a longer recording is separated in windows of this length (networks that are not causal).
        overlap_seconds: what two windows share.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    sample_rate: int = Field(ge=100, le=768_000)
    sources: list[str] = Field(min_length=1, max_length=MOST_SOURCES)
    causal: bool
    length: int = Field(ge=1)
    hop: int = Field(ge=1)
    lead: int = Field(ge=0)
    window_seconds: float = Field(gt=0, le=600)
    overlap_seconds: float = Field(ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.length % self.hop or self.lead not in (0, self.length - self.hop):
            raise ValueError(f"hop {self.hop} and lead {self.lead} do not go with length {self.length}")
        if 2 * self.overlap_seconds > self.window_seconds:
            raise ValueError(f"windows of {self.window_seconds} s cannot share more than half of it")
        return self

    @classmethod
    def of(cls, bundle: Bundle) -> SeparatorPreprocessing:
        """Those of a bundle; BundleError names the field that is wrong."""
        try:
            return cls.model_validate(bundle.spec.preprocessing)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in ("preprocessing", *first["loc"]))
            raise BundleError(first["msg"], where=f"{bundle.path}/bundle.json: {place}", got=first.get("input")) from error

    @property
    def window(self) -> int:
        """Samples of a window."""
        return max(2, round(self.window_seconds * self.sample_rate))

    @property
    def overlap(self) -> int:
        """Samples that two windows share."""
        return min(round(self.overlap_seconds * self.sample_rate), self.window // 2)
