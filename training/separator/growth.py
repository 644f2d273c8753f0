"""A deeper separator begins where a shallower one ended: its further blocks add nothing until they have learnt to.

Function-preserving growth as in Chen et al. 2016, "Net2Net: Accelerating Learning via Knowledge Transfer" (arXiv:1511.05641).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from models.separator.transformer import DualPathSettings

BLOCK = re.compile(r"separator\.blocks\.(\d+)\.")


def grown(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a Conv-TasNet for one with further blocks after its last, which then computes the same.

    Args:
        weights: of the shallower network, its last block with or without its residual.
        own: of the deeper network, as it was initialised.

    Returns:
        ``weights``, the residual of what was the last block as zeros where it had none, and of ``own`` the further blocks, whose
        output layers are zero. Where ``own`` has no further blocks, ``weights`` as they are.
    """
    blocks = {block for name in weights if (block := _block(name)) is not None}
    further = {name: tensor.clone() for name, tensor in own.items() if _block(name) not in (None, *blocks)}
    if not blocks or not further:
        return dict(weights)
    for name, tensor in further.items():
        if ".output." in name:
            tensor.zero_()
    result = {**weights, **further}
    for kind in ("weight", "bias"):
        name = f"separator.blocks.{max(blocks)}.output.{kind}"
        missing = max(0, len(own[name]) - len(result[name]))  # rows of the residual stand before those of the skip path
        result[name] = torch.cat([result[name].new_zeros(missing, *result[name].shape[1:]), result[name]])
    return result


def meaning(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``ConvTasNetSettings`` that change what weights mean. Further repeats, with ``grown``, do not."""
    ignored = {"repeats", "last_residual", "initialisation"}
    transformer = settings["transformer"]
    if transformer is not None:
        ignored |= {"bottleneck", "skip", "hidden", "kernel", "blocks", "norm"}  # of the convolutions, which are not there
        transformer = {**asdict(DualPathSettings()), **transformer, "dropout": None}
    told = {name: value for name, value in settings.items() if name not in ignored}
    return {**told, "hop": settings["hop"] or settings["length"] // 2, "transformer": transformer}


def _block(name: str) -> int | None:
    found = BLOCK.match(name)
    return int(found[1]) if found else None
