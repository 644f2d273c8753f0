"""Small corpora that a network can learn, written by the tests."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import yaml

from models.tagger.vectors import VectorTable
from tests.scans import ball, save, write_decathlon
from tests.training.separator.speakers import write_mixtures, write_speakers

LIGHTNING = "lightning.pytorch"
ENGLISH = {
    "the": "DET",
    "cat": "NOUN",
    "dog": "NOUN",
    "sees": "VERB",
    "likes": "VERB",
    "Ada": "PROPN",
    "big": "ADJ",
    ".": "PUNCT",
}
CHINESE = {"我": "r", "爱": "v", "北京": "ns", "天安门": "ns", "上海": "ns", "的": "u", "人": "n", "生活": "v", "中国": "ns"}
CEDICT = "# CC-CEDICT\n天安門 天安门 [Tian1 an1 men2] /Tiananmen/\n上海 上海 [Shang4 hai3] /Shanghai/\n"
ENTITIES = [(["Ada", "Lovelace"], ["B-PER", "I-PER"]), (["London"], ["B-LOC"]), (["lives", "in"], ["O", "O"]), (["."], ["O"])]


def conllu(count: int, seed: int = 0) -> str:
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        for number, word in enumerate(random.choice(list(ENGLISH), random.integers(2, 10)), 1):
            label = ENGLISH[word]
            lines.append("\t".join([str(number), word, word.lower(), label, label[:2], f"F={label[0]}", "_", "_", "_", "_"]))
        lines.append("")
    return "\n".join(lines) + "\n"


def slash(count: int, seed: int = 0, words: dict[str, str] = CHINESE, end: str = "。/w") -> str:
    random = np.random.default_rng(seed)
    pick = list(words)
    return "".join(
        "  ".join([*(f"{w}/{words[w]}" for w in random.choice(pick, random.integers(2, 9))), end]) + "\n" for _ in range(count)
    )


def columns(count: int, seed: int = 0, uner: bool = False) -> str:
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        number = 0
        for piece in random.integers(0, len(ENTITIES), random.integers(1, 6)):
            for token, label in zip(*ENTITIES[piece], strict=True):
                number += 1
                lines.append("\t".join([str(number), token, label, "-", "-"] if uner else [token, label]))
        lines.append("")
    return "\n".join(lines) + "\n"


def write_data(folder: Path) -> None:
    """The files that training/configs/*.yaml name, small, at the same places."""
    files = {
        "data/ewt/en_ewt-ud-train.conllu": conllu(30),
        "data/ewt/en_ewt-ud-dev.conllu": conllu(10, 1),
        "data/brown/ca01": slash(10, 2, {word: label.lower() for word, label in ENGLISH.items()}, "./."),
        "data/people-daily/199801.txt": slash(40),
        "data/cedict/cedict_1_0_ts_utf-8_mdbg.txt.gz": CEDICT,
        "data/wnut17/train.conll": columns(30),
        "data/wnut17/dev.conll": columns(10, 1),
        "data/uner_zh/train.iob2": columns(30, uner=True),
        "data/uner_zh/dev.iob2": columns(10, 1, uner=True),
        "training/configs/separator-dev.csv": "source_1,source_2,level\nspeaker_0/0.flac,speaker_1/0.flac,2.5\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = text.encode("utf-8")
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    write_speakers(folder / "data/speech/train", 4, files=1)
    write_speakers(folder / "data/speech/dev", 2, files=1)
    for part in ("tr", "cv"):
        write_mixtures(folder / "data/wsj0-2mix/2speakers/wav8k/min" / part)
    write_decathlon(folder / "data/hippocampus", 10, (10, 14, 10))
    values, labels = ball((20, 24, 22))
    save(folder / "data/flyem-halves/lower.nii", values)
    save(folder / "data/flyem-halves/lower-label.nii", (labels > 0).astype(np.uint8))
    (folder / "data/flyem-halves/lower.csv").write_text("image,label\nlower.nii,lower-label.nii\n", "utf-8")
    random = np.random.default_rng(0)
    characters = sorted(set("".join(CHINESE)))
    tables = {
        "glove-50d": [*map(str.lower, ENGLISH)],
        "en-words": [*ENGLISH],
        "zh-characters": characters,
        "zh-bigrams": ["北京", "上海"],
    }
    for name, words in tables.items():
        words = list(dict.fromkeys(words))
        VectorTable(words, random.normal(size=(len(words), 6)).astype(np.float16)).save(folder / "data/vectors" / name)


def config(folder: Path, **changes: object) -> Path:
    """A complete small config for `conllu` data at train.conllu and dev.conllu; "trainer.max_epochs" and the like change it."""
    keeps = {"dirpath": "runs/x", "enable_version_counter": False}
    best = keeps | {"filename": "best", "monitor": "validation/accuracy", "mode": "max"}
    last = keeps | {"filename": "last"}
    checkpoint = f"{LIGHTNING}.callbacks.ModelCheckpoint"
    settings: dict = {
        "seed_everything": 3,
        "trainer": {
            "max_epochs": 4, "accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, "log_every_n_steps": 1,
            "enable_progress_bar": False, "enable_model_summary": False,
            "logger": {"class_path": f"{LIGHTNING}.loggers.TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "x"}},
            "callbacks": [{"class_path": checkpoint, "init_args": each} for each in (best, last)],
        },
        "model": {
            "class_path": "training.tagger.module.TaggerModule",
            "init_args": {
                "width": 16, "stack": [{"channels": 16, "activation": "glu"}], "letter_convolutions": [{"channels": 8}],
                "letter_embedding": 4, "decoder": "softmax", "dropout": 0.2, "learning_rate": 0.02,
            },
        },
        "data": {
            "class_path": "training.tagger.data.TaggerData",
            "init_args": {
                "train": [{"path": "train.conllu", "labels": {"labels": "upos", "xpos": "xpos"}}],
                "validation": {"path": "dev.conllu"},
                "letters": 6,
                "tables": [{"name": "learned", "dimensions": 8, "trainable": True}],
                "batch_tokens": 64,
            },
        },
    }  # fmt: skip
    for name, value in changes.items():
        *path, last = name.split(".")
        place = settings
        for part in path:
            place = place[part]["init_args"] if part in ("model", "data") else place[part]
        place[last] = value
    path_of = folder / "config.yaml"
    path_of.write_text(yaml.safe_dump(settings, allow_unicode=True), "utf-8")
    return path_of
