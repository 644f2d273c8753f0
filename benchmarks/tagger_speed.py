"""Words per second of a tagger bundle and of spaCy's CNN tagger, on the same sentences and the same cores, in one run.

    python benchmarks/tagger_speed.py --data en_ewt-ud-dev.conllu

Both get raw token lists and answer with one label a token. spaCy lives in an environment of its own, which the first run installs
into ``benchmarks/.venv-spacy``; its tagger has the default `HashEmbedCNN` (width 96, depth 4, 2,000 rows, window 1, 3 pieces,
subword features) and 17 labels, and runs with the fastest of a few batch sizes and process counts. Its weights are random: that
changes what it answers, not how long it takes, and no accuracy is claimed here. The two take turns, one pass over all sentences
each, in processes that stay loaded; the other one waits meanwhile. Prints a table, then JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worker import ROOT, Worker, answer

SPACY = "spacy==3.8.18"
SETTINGS = [(64, 1), (256, 1), (1000, 1), (4000, 1), (256, 2), (1000, 2)]  # spaCy's batch size in sentences, processes
UPOS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"
SAMPLE = """The committee met on Tuesday to discuss the new budget , but nothing was decided .
Please call me back at your earliest convenience ; I will be in the office until five .
Ada Lovelace lived in London and wrote the first program for a machine that was never built .
I do n't think they 're going to make it in time , are they ?
Great food , friendly staff , and the prices are very reasonable !
According to the report , about 40 percent of all flights were late last year .
We went there twice and would not go again : long waits , cold soup .
The river rises in the mountains and flows north for three hundred miles before it reaches the sea .
Thanks for your help .
She asked whether the well - known results could be repeated with a smaller sample ."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--bundle", default=str(ROOT / "pretrained" / "tagger-en"), help="bundle to time (default: pretrained/tagger-en)"
    )
    parser.add_argument(
        "--data", type=Path, help="CoNLL-U file whose words are tagged (default: 2,000 sentences made from a sample)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed passes of each (default: 7)")
    parser.add_argument("--cores", type=int, default=2, help="cores both may use (default: 2)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--worker", choices=["convoy", "spacy"], help=argparse.SUPPRESS)
    parser.add_argument("--sentences", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        sentences = json.loads(arguments.sentences.read_text("utf-8"))
        work(convoy(arguments.bundle) if arguments.worker == "convoy" else spacy(sentences), sentences)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    sentences = read_conllu(arguments.data) if arguments.data else made_sentences()
    words = sum(map(len, sentences))
    peer = peer_python()
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sentences.json"
        file.write_text(json.dumps(sentences), "utf-8")
        given = ["--sentences", str(file)]
        workers = {
            "convoy": Worker([sys.executable, __file__, "--worker", "convoy", "--bundle", arguments.bundle, *given], cores),
            "spacy": Worker([peer, __file__, "--worker", "spacy", *given], cores),
        }
        try:
            for worker in workers.values():
                worker.turn()  # not counted: fills caches and pages
            speeds: dict[str, list[float]] = {name: [] for name in workers}
            for number in range(arguments.rounds):  # who goes first changes with every round
                for name, worker in list(workers.items())[:: 1 if number % 2 else -1]:
                    speeds[name].append(words / worker.turn())
        finally:
            for worker in workers.values():
                worker.close()
    report(arguments, sentences, workers, speeds, words)


Tag = Callable[[Sequence[Sequence[str]]], int]


def work(loaded: tuple[Tag, dict[str, Any]], sentences: list[list[str]]) -> None:
    tag, about = loaded
    words = sum(map(len, sentences))
    answer(json.dumps({**about, "python": platform.python_version()}))
    for _ in sys.stdin:
        started = time.perf_counter()
        labels = tag(sentences)
        taken = time.perf_counter() - started
        if labels != words:
            sys.exit(f"{labels} labels for {words} words")
        answer(taken)


def convoy(bundle: str) -> tuple[Tag, dict[str, Any]]:
    from models.tagger import Tagger

    tagger = Tagger.load(bundle)

    def tag(sentences: Sequence[Sequence[str]]) -> int:
        return sum(map(len, tagger.tag_tokens(sentences)))

    precision = str(tagger.packer.context.precision)
    return tag, {"name": f"Convoy {tagger.spec.name}", "version": version("openvino"), "precision": precision}


def spacy(sentences: list[list[str]]) -> tuple[Tag, dict[str, Any]]:
    import spacy as library
    from spacy.tokens import Doc

    nlp = library.blank("en")
    cnn = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "width": 96, "depth": 4, "embed_size": 2000}
    cnn |= {"window_size": 1, "maxout_pieces": 3, "subword_features": True}
    tagger = nlp.add_pipe("tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": cnn}})
    for label in UPOS.split():
        tagger.add_label(label)
    nlp.initialize()

    def tagged(given: Sequence[Sequence[str]], batch: int, processes: int) -> int:
        docs = (Doc(nlp.vocab, words=words) for words in given)
        return sum(len([token.tag_ for token in doc]) for doc in nlp.pipe(docs, batch_size=batch, n_process=processes))

    def seconds(batch: int, processes: int) -> float:
        started = time.perf_counter()
        tagged(sentences, batch, processes)
        return time.perf_counter() - started

    tagged(sentences, 256, 1)  # fills the vocabulary
    tried = {setting: min(seconds(*setting) for _ in range(2)) for setting in SETTINGS}
    batch, processes = min(tried, key=lambda setting: tried[setting])
    about = {"name": "spaCy HashEmbedCNN", "version": library.__version__, "batch_size": batch, "processes": processes}
    return lambda given: tagged(given, batch, processes), about


def peer_python() -> str:
    """spaCy's own interpreter, installed on the first run."""
    home = Path(__file__).resolve().parent / ".venv-spacy"
    python, done = home / "bin" / "python", home / f"{SPACY}.installed"
    if not done.exists():
        print(f"installing {SPACY} into {home}", file=sys.stderr)
        venv.create(home, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", SPACY], check=True, stdout=sys.stderr)
        done.touch()
    return str(python)


def read_conllu(path: Path) -> list[list[str]]:
    """Words of every sentence, without rows for multiword surfaces and empty nodes."""
    sentences: list[list[str]] = [[]]
    for line in path.read_text("utf-8").splitlines():
        if not line:
            sentences.append([])
        elif line[0] != "#":
            number, form = line.split("\t")[:2]
            if number.isdigit():
                sentences[-1].append(form)
    return [sentence for sentence in sentences if sentence]


def made_sentences(count: int = 2000) -> list[list[str]]:
    """The sample's sentences again and again, one word in eight replaced by a new one, so that not every word is an old one."""
    generator = random.Random(0)
    lines = [line.split(" ") for line in SAMPLE.splitlines()]

    def changed(word: str) -> str:
        return "".join(generator.choices("abdegiklmnoprstu", k=generator.randint(3, 9))) if generator.random() < 1 / 8 else word

    return [[changed(word) for word in generator.choice(lines)] for _ in range(count)]


def report(
    arguments: argparse.Namespace,
    sentences: list[list[str]],
    workers: dict[str, Worker],
    speeds: dict[str, list[float]],
    words: int,
) -> None:
    ratios = [ours / theirs for ours, theirs in zip(speeds["convoy"], speeds["spacy"], strict=True)]
    figures: dict[str, Any] = {
        "data": arguments.data.name if arguments.data else "made from a sample",
        "sentences": len(sentences),
        "words": words,
        "cores": arguments.cores,
        "processor": processor(),
        "rounds": arguments.rounds,
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }
    where = f"{arguments.cores} cores of {figures['processor']}"
    print(f"{words:,} words in {len(sentences):,} sentences, {where}, {arguments.rounds} rounds\n")
    print(f"{'words per second':<28}{'median':>12}{'lowest':>12}{'highest':>12}")
    for name, worker in workers.items():
        median, lowest, highest = statistics.median(speeds[name]), min(speeds[name]), max(speeds[name])
        print(f"{json.loads(worker.ready)['name']:<28}{median:>12,.0f}{lowest:>12,.0f}{highest:>12,.0f}")
        figures[name] = {**json.loads(worker.ready), "words_per_second": {"median": median, "rounds": speeds[name]}}
    print(f"{'ratio, round by round':<28}{statistics.median(ratios):>12.2f}{min(ratios):>12.2f}{max(ratios):>12.2f}\n")
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", "utf-8")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
