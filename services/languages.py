"""Which bundle answers for a language, over HTTP and in batch runs alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def default_names(languages: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Which bundle answers for a language: ``tagger-<language>`` if there is one, else the first by name that knows it."""
    known = sorted({language for several in languages.values() for language in several})
    able = {language: sorted(name for name, several in languages.items() if language in several) for language in known}
    return {language: f"tagger-{language}" if f"tagger-{language}" in names else names[0] for language, names in able.items()}
