"""A small bundle for tests that need one."""

from __future__ import annotations

from models.bundle import BundleSpec

FILES = {"network.onnx": b"\x08\x01" * 700_000, "CARD.md": "# Karte 词性\n".encode(), "data/words.txt": b"", "x": b"1"}


def make_spec(**changes) -> BundleSpec:
    fields = {
        "task": "tagger",
        "name": "tagger-en",
        "languages": ["en"],
        "labels": ["NOUN", "VERB"],
        "preprocessing": {"lower": False, "longest": 512},
        "network": {"class": "models.tagger.network:Tagger", "arguments": {"channels": 8, "dilations": [1, 2]}},
        "training": {
            "data": [{"name": "EWT", "source": "universaldependencies.org", "licence": "CC-BY-SA-4.0", "part": "train"}],
            "recipe": "convoy fit",
        },
        "licence": "Apache-2.0",
        "figures": {"accuracy": 0.956, "per_label": {"NOUN": 0.9}},
        "parity": {"max_abs_difference": 1e-5, "precision": {"f32": 1e-5, "bf16": None}},
    }
    return BundleSpec.model_validate(fields | changes)
