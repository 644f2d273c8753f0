"""What is done to patches so that a network does not learn them by heart; noise and blur are TorchIO's.

Çiçek et al. 2016 rotate, scale, change grey values and deform by B-splines; so do we. Labels outside of the patch are
unannotated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torchio
from torch import Tensor

from models.errors import ConfigError
from training.segmenter.deformation import FIXED, Deformation, drawn_displacements, drawn_matrix
from training.segmenter.losses import UNANNOTATED

LEAST = 2 * FIXED + 1  # control points
THIN = 3  # an axis is thin where the longest has more than so many times its voxels: turned, it would leave the patch


@dataclass
class Augmentation:
    """How often and how much. Chances are between 0 and 1.

    Attributes:
        affine: chance of a rotation and scaling.
        degrees: of rotation about each axis, at most. Where an axis of the patch is thin, patches are turned and bent within the
            plane of the others only.
        scale: largest change of size, as a share below 1.
        deformation: chance of a deformation by B-splines.
        control_points: of the B-splines, along each axis; the outer two on each side stay where they are.
        displacement: of a control point, voxels at most.
        grey: chance of a gamma curve, and of another contrast and brightness.
        noise: chance of Gaussian noise.
        blur: chance of a Gaussian blur.
        flips: axes (of z, y, x, turned) that may be mirrored; empty for none.
    """

    affine: float = 0.5
    degrees: float = 15.0
    scale: float = 0.2
    deformation: float = 0.2
    control_points: int = 7
    displacement: float = 4.0
    grey: float = 0.3
    noise: float = 0.15
    blur: float = 0.1
    flips: str = ""

    def __post_init__(self) -> None:
        for name in ("affine", "deformation", "grey", "noise", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError("not a chance", where=name, expected="0 to 1", got=getattr(self, name))
        for name, most in (("degrees", 180.0), ("displacement", math.inf)):
            if not 0 <= getattr(self, name) <= most or math.isinf(getattr(self, name)):
                expected = f"0 to {most:g}" if math.isfinite(most) else "0 or more"
                raise ConfigError("out of range", where=name, expected=expected, got=getattr(self, name))
        if not 0 <= self.scale < 1:
            raise ConfigError("not a share below 1", where="scale", expected="from 0 to below 1", got=self.scale)
        if set(self.flips) - set("zyx"):
            raise ConfigError("no such axes", where="flips", expected="some of the letters z, y, x", got=self.flips)
        if self.control_points < LEAST:
            expected = f"{LEAST} or more, since {2 * FIXED} stay where they are"
            raise ConfigError("too few control points", where="control_points", expected=expected, got=self.control_points)

    def __call__(
        self, image: Tensor, labels: Tensor, seed: Sequence[int], size: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Change a patch (z, y, x) and its labels, always in the same way for the same seed.

        ``size`` is that of the middle which is kept, and says which axes are thin; by default all is kept.
        """
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
        image, labels = self._moved(image, labels, generator, size or image.shape)
        with torch.random.fork_rng(devices=[]):  # TorchIO draws from torch's global numbers
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            subject = torchio.Subject(image=torchio.ScalarImage(tensor=image[None]))
            for chance, transform in (
                (self.blur, torchio.RandomBlur((0.25, 1.0))),
                (self.noise, torchio.RandomNoise(std=(0.0, 0.2))),
            ):
                if float(torch.rand(())) < chance:
                    subject = transform(subject)
        values = cast(Any, subject)["image"].data[0].float()
        return self._contrast(values, generator), labels

    def _moved(self, image: Tensor, labels: Tensor, generator: torch.Generator, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mirrored, turned, scaled and bent."""
        chances = torch.rand(5, generator=generator).tolist()
        mirrored = [axis for axis, name in enumerate("zyx") if name in self.flips and chances[axis] < 0.5]
        image, labels = image.flip(mirrored), labels.flip(mirrored)
        affine, deformation = chances[3] < self.affine, chances[4] < self.deformation
        if not affine and not deformation:
            return image, labels
        thin = [axis for axis, voxels in enumerate(size) if max(size) > THIN * voxels]
        matrix = drawn_matrix(self.degrees, self.scale, generator, thin) if affine else None
        points, most = self.control_points, self.displacement
        bent = drawn_displacements(points, most, image.shape, generator, thin) if deformation else None
        return Deformation(matrix, bent)(image, labels, UNANNOTATED)

    def _contrast(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """Gamma, contrast and brightness of normalised values, whose mean is near 0 (nnU-Net's ranges)."""
        draw = torch.rand(6, generator=generator).tolist()
        if draw[0] < self.grey:
            values = values * (0.75 + 0.5 * draw[1]) + 0.2 * (2 * draw[2] - 1)
        if draw[3] < self.grey:
            low, high = values.min(), values.max()
            span = (high - low).clamp(min=1e-6)
            gamma = 0.7 + 0.8 * draw[4]
            rising = ((values - low) / span).clamp(0, 1)
            rising = rising**gamma if draw[5] < 0.7 else 1 - (1 - rising) ** gamma
            values = rising * span + low
        return values
