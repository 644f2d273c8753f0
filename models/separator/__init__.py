"""The speech separator: a voice for each speaker, of the mixture's own rate and length."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.separator.predictor import Separator
    from models.separator.streaming import Stream

__all__ = ["Separator", "Stream"]


def __getattr__(name: str) -> Any:
    """Import the predictor when it is asked for: the network's definition must not load the runtime, nor the other way round."""
    if name == "Separator":
        from models.separator.predictor import Separator

        return Separator
    if name == "Stream":
        from models.separator.streaming import Stream

        return Stream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
