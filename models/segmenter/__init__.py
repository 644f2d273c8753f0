"""The volumetric segmenter: a label map on the scan's own grid."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.segmenter.predictor import Segmented, Segmenter

__all__ = ["Segmented", "Segmenter"]


def __getattr__(name: str) -> Any:
    """Import the predictor when it is asked for: the network's definition must not load the runtime, nor the other way round."""
    if name in __all__:
        from models.segmenter import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
