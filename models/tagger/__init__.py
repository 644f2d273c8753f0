"""The text tagger: labels for words, with honest confidences."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.tagger.predictor import TaggedSpan, TaggedText, TaggedToken, Tagger

__all__ = ["TaggedSpan", "TaggedText", "TaggedToken", "Tagger"]


def __getattr__(name: str) -> Any:
    """Import the predictor when it is asked for: reading labels or vectors must not load the runtime."""
    if name in __all__:
        from models.tagger import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
