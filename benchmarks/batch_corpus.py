"""A corpus of many real files for batch runs: talk of two people at once, scans, texts; the same at every call.

    convoy fetch voices-en voices-es mni152 reviews
    python benchmarks/batch_corpus.py runs/corpus

Recordings are two telephone prompts added (as WAV, FLAC and MP3), scans are crops of the MNI152 head around the hippocampus,
turned and scaled in grey, texts are reviews. Some files of each kind are broken.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
RATE = 8000
CROP = (48, 56, 44)
MIDDLES = [(65, 112, 58), (131, 112, 58)]  # voxels of the two hippocampi in the head
FORMATS = ("wav", "flac", "mp3")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where `convoy fetch` put its data")
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--volumes", type=int, default=500)
    parser.add_argument("--texts", type=int, default=600)
    given = parser.parse_args()
    make(given.out, given.data, given.recordings, given.volumes, given.texts)
    print(f"{sum(path.is_file() for path in given.out.rglob('*'))} files in {given.out}")


def make(out: Path, data: Path, recordings: int, volumes: int, texts: int) -> None:
    random = np.random.default_rng(1)
    for number, sound in zip(range(recordings), mixtures(data, random), strict=False):
        kind = FORMATS[number % len(FORMATS)]
        soundfile.write(place(out / "sounds", number, kind), sound, RATE)
    for number, (scan, affine) in zip(range(volumes), scans(data, random), strict=False):
        nibabel.save(nibabel.Nifti1Image(scan, affine), place(out / "volumes", number, "nii.gz"))
    for number, text in zip(range(texts), reviews(data), strict=False):
        place(out / "texts", number, "txt").write_text(text, "utf-8")
    for number, (folder, kind) in enumerate(itertools.product(["sounds", "volumes", "texts"], range(4))):
        ending = {"sounds": "wav", "volumes": "nii.gz", "texts": "txt"}[folder]
        place(out / folder, 9000 + number, ending).write_bytes(b"\xff\xfebroken %d" % kind)


def place(folder: Path, number: int, ending: str) -> Path:
    path = folder / f"{number % 10}" / f"{number // 10 % 10}" / f"{number:05d}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def mixtures(data: Path, random: np.random.Generator) -> Iterator[np.ndarray]:
    paths = sorted(path for name in ("voices-en", "voices-es") for path in (data / name).rglob("*.wav"))
    if not paths:
        sys.exit(f"no recordings in {data}: first `convoy fetch voices-en voices-es mni152 reviews`")
    while True:
        first, second = (soundfile.read(paths[choice], dtype="float32")[0] for choice in random.integers(len(paths), size=2))
        mixture = np.zeros(max(len(first), len(second), RATE), np.float32)
        mixture[: len(first)] += 0.5 * first
        mixture[: len(second)] += 0.5 * random.uniform(0.5, 1) * second
        yield mixture


def scans(data: Path, random: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    [path] = (data / "mni152").rglob("*.nii.gz")
    head = nibabel.load(path)
    values = np.asarray(head.dataobj)
    while True:
        start = np.array(MIDDLES[random.integers(2)]) - np.array(CROP) // 2 + random.integers(-6, 7, 3)
        part = values[tuple(slice(at, at + size) for at, size in zip(start, CROP, strict=True))]
        part = np.flip(part, axis=random.integers(3)) if random.random() < 0.5 else part
        yield np.clip(part * random.uniform(2, 6), 0, 2**15 - 1).astype(np.int16), head.affine


def reviews(data: Path) -> Iterator[str]:
    lines = [line for name in ("pos.txt", "neg.txt") for line in (data / "reviews" / name).read_text("utf-8").split("\n") if line]
    for start in itertools.count(0, 20):
        yield "\n".join(lines[(start + each) % len(lines)] for each in range(20)) + "\n"


if __name__ == "__main__":
    main()
