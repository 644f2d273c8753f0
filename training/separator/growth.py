"""A deeper separator begins where a shallower one ended: its further blocks add nothing until they have learnt to.

Function-preserving growth as in Chen et al. 2016, "Net2Net: Accelerating Learning via Knowledge Transfer" (arXiv:1511.05641).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

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


def _block(name: str) -> int | None:
    found = BLOCK.match(name)
    return int(found[1]) if found else None
