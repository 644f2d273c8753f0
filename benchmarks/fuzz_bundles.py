"""Damaged bundles, each loaded and used in a process that watches itself: a BundleError, or it works; no code of theirs runs.

The manifest is written anew for most of them, so that digests do not give the damage away: as somebody would who means harm.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import pickle
import random
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import fuzz_seeds
from mutations import mutated

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 300  # compiling takes its time on a machine that others use too
WATCHED = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "pickle.find_class"}
WRONG = [
    None,
    0,
    -1,
    1e308,
    2**70,
    "",
    "convoy_canary:Network",
    "os:system",
    "../../x",
    "/etc/passwd",
    [],
    {},
    ["a"] * 1000,
    True,
]


class Payload:
    """What a pickle would do if anybody loaded it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch PWNED",)


def run(count: int, seed: int, out: Path) -> list[str]:
    """Load `count` damaged bundles; the faults."""
    bundles = sorted((ROOT / "pretrained").iterdir())
    ends: collections.Counter[str] = collections.Counter()
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "convoy_canary.py").write_text("import pathlib; pathlib.Path('PWNED').touch()\nclass Network: pass\n")
        child = Child(scratch)
        for number in range(count):
            chance = random.Random(f"bundle {seed}-{number}")
            source = chance.choice(bundles)
            folder = Path(scratch) / "bundle"
            what = damage(source, folder, chance)
            end = child.load(folder)
            ends[f"{source.name.split('-')[0]:10} {end.split(':')[0]}"] += 1
            if end.split(":")[0] not in {"BundleError", "works"}:
                faults.append(f"bundle {number} ({source.name}, {what}): {end}")
                kept = out / f"bundle-{seed}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(folder, kept)
            if (Path(scratch) / "PWNED").exists():
                faults.append(f"bundle {number} ({source.name}, {what}): its code was run")
                (Path(scratch) / "PWNED").unlink()
            shutil.rmtree(folder)
            if (number + 1) % 50 == 0:
                print(f"{number + 1:6} bundles  {len(faults)} faults", flush=True)
        child.end()
    for end, times in sorted(ends.items()):
        print(f"bundles: {end:40} {times}")
    return faults


def damage(source: Path, folder: Path, chance: random.Random) -> str:
    """A copy of a bundle with one thing wrong with it; what."""
    folder.mkdir()
    for file in source.iterdir():
        os.link(file, folder / file.name) if file.stat().st_dev == folder.stat().st_dev else shutil.copy(file, folder)
    manifest = json.loads((source / "bundle.json").read_text("utf-8"))
    if chance.random() < 0.4:
        content = mutated_manifest(manifest, chance)
        _replace(folder / "bundle.json", content)
        return "bundle.json"
    name = chance.choice([name for name in manifest["files"] if name != "CARD.md"])
    content = (source / name).read_bytes()
    kind = chance.random()
    if kind < 0.05:
        changed = pickle.dumps(Payload())
    elif kind < 0.2:  # whole, but another's
        changed = chance.choice(sorted(source.parent.glob(f"*/*{Path(name).suffix}"))).read_bytes()
    else:
        changed = mutated(content, chance, [content[:5000], b"\x93NUMPY\x01\x00"])
    _replace(folder / name, changed)
    if chance.random() < 0.9:
        manifest["files"][name] = {"sha256": hashlib.sha256(changed).hexdigest(), "bytes": len(changed)}
        _replace(folder / "bundle.json", json.dumps(manifest).encode())
    return name


def mutated_manifest(manifest: dict[str, object], chance: random.Random) -> bytes:
    """Its bytes damaged, or one of its values replaced by one that is as wrong as it can be."""
    if chance.random() < 0.3:
        return mutated(json.dumps(manifest).encode(), chance)
    places = list(_places(manifest))
    for _ in range(chance.choice([1, 1, 2])):
        holder, key = chance.choice(places)
        holder[key] = chance.choice(WRONG)
    return json.dumps(manifest).encode()


def _places(value: object) -> list[tuple[object, object]]:
    if isinstance(value, dict):
        keys: list[object] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def _replace(file: Path, content: bytes) -> None:
    """Not through a link to the published one."""
    file.unlink()
    file.write_bytes(content)


class Child:
    """The process that loads; a new one where it ended."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._process: subprocess.Popen[str] | None = None

    def load(self, folder: Path) -> str:
        """How loading and using a bundle ends."""
        if self._process is None:
            command = [sys.executable, __file__]
            environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{self._scratch}", "OMP_NUM_THREADS": "1"}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(command, cwd=self._scratch, env=environment, **pipes)
        process = self._process
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else ""
        if line:
            return str(line.strip())
        if not ready:
            process.kill()
        self._process = None
        return f"process ended: {process.wait()}" if ready else f"hangs: more than {SECONDS} s"

    def end(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=30)


# ---- in the child --------------------------------------------------------------------------------------------------------


def child(commands: IO[str]) -> None:
    """Load each bundle that is named, use it once, and say how it ended."""
    from models.errors import BundleError

    seeds = {"audio": fuzz_seeds.recordings()["a.wav"], "volume": fuzz_seeds.volumes()["a.nii"]}
    for line in commands:
        folder = Path(line.strip())
        use(ROOT / "pretrained" / "tagger-en", seeds) if not _watch.on else None  # imports what is imported late
        _watch.on = True
        try:
            use(folder, seeds)
            end = "works"
        except BundleError as error:
            end = f"BundleError: {error}"
        except BaseException as error:  # noqa: BLE001 (it is what we look for)
            end = f"{type(error).__name__}: {error}"
        print(" ".join(end.split())[:300], flush=True)


def use(folder: Path, seeds: dict[str, bytes]) -> None:
    """Load a bundle as its service would, and work with it once."""
    import models.segmenter
    import models.separator
    import models.tagger

    task = folder.name.split("-")[0]
    if folder.name == "bundle":
        task = json.loads((folder / "bundle.json").read_bytes()).get("task") if _readable(folder) else "tagger"
    scratch = Path(tempfile.mkdtemp(dir="."))
    try:
        if task == "separator":
            (scratch / "a.wav").write_bytes(seeds["audio"])
            models.separator.Separator.load(folder).separate_file(scratch / "a.wav", scratch / "b.wav")
        elif task == "segmenter":
            (scratch / "a.nii").write_bytes(seeds["volume"])
            models.segmenter.Segmenter.load(folder).segment_file(scratch / "a.nii", scratch / "b.nii")
        else:
            models.tagger.Tagger.load(folder).tag(fuzz_seeds.TEXTS[:2])
    finally:
        shutil.rmtree(scratch)


def _readable(folder: Path) -> bool:
    try:
        return isinstance(json.loads((folder / "bundle.json").read_bytes()), dict)
    except (ValueError, RecursionError):
        return False


class _Watch:
    """An audit hook: what a bundle must never bring about ends the process with a status of its own."""

    on = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event in WATCHED:
            print(f"FORBIDDEN: {event} {arguments!r}"[:300], flush=True)
            os._exit(66)


_watch = _Watch()

if __name__ == "__main__":
    sys.addaudithook(_watch)
    child(sys.stdin)
