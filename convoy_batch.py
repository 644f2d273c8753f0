"""The commands that work on many files: tag, separate, segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from models.errors import ConfigError

if TYPE_CHECKING:
    from services.batch import Cluster

PRETRAINED = Path(__file__).resolve().parent / "pretrained"


def batch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a run over many files goes, whatever is done with them."""
    options = [
        click.option(
            "--manifest",
            "manifests",
            multiple=True,
            metavar="FILE",
            help="CSV, JSONL or Parquet with columns input and, where you name outputs, output.",
        ),
        click.option(
            "--name", metavar="TEMPLATE", help="Of the outputs: {folder}, {stem}, {ending}, {tag}.  [default: {folder}/{stem}]"
        ),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Processes of this machine, or a Ray cluster.",
        ),
        click.option("--address", help="Of the Ray cluster.  [default: one is started on this machine]"),
        click.option(
            "--processes", type=click.IntRange(1), help="At most so many, or actors.  [default: one for each processor]"
        ),
        click.option("--retry-failed", is_flag=True, help="Work again on what failed in earlier runs."),
        click.option("--fail-fast", is_flag=True, help="Stop at the first file that fails."),
        click.option(
            "--check",
            type=click.Choice(["content", "size"]),
            default="content",
            show_default=True,
            help="How outputs of earlier runs are looked at.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(short_help="Tag the texts of files.")
@click.argument("inputs", nargs=-1, metavar="INPUT…")
@click.option("--out", help="Folder or address for one JSONL file per input.  [default: everything to stdout]")
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    metavar="BUNDLE",
    help="Folder, address or BentoML tag; repeat it for several languages.",
)
@batch_options
@click.pass_context
def tag(ctx: click.Context, /, inputs: tuple[str, ...], out: str | None, bundles: tuple[str, ...], **settings: Any) -> None:
    """Tag texts: one a line in text files, or {"text": …} a line in .jsonl files; INPUT may be a folder, a glob, an address or -.

    Each line of the output is JSON: where the text came from, its tokens with offsets, labels and confidences, its spans.
    The bundle is chosen by the script of each text, from those given or from pretrained/.
    """
    chosen = bundles or _pretrained("tagger")
    if out is None:
        _refuse_settings(ctx)
        from services.batch.text import TaggerChoice, tag_to_stdout

        tag_to_stdout(inputs, TaggerChoice(chosen))
        return
    _run(ctx, "tag", inputs, out, chosen, {}, settings)


@click.command(short_help="Separate the speakers of recordings.")
@click.argument("inputs", nargs=-1, metavar="INPUT…")
@click.option("--out", required=True, help="Folder or address for the voices; the tree of INPUT is kept below it.")
@click.option("--bundle", help="Folder, address or BentoML tag.  [default: one from pretrained/]")
@click.option(
    "--layout",
    type=click.Choice(["channels", "files"]),
    default="channels",
    show_default=True,
    help="One file with a channel for each speaker, or a file for each speaker.",
)
@click.option(
    "--format",
    "ending",
    type=click.Choice(["wav", "flac"]),
    default="wav",
    show_default=True,
    help="WAV of floats, which never clips; or FLAC of 24 bits, all voices scaled alike where one would clip.",
)
@batch_options
@click.pass_context
def separate(
    ctx: click.Context, /, inputs: tuple[str, ...], out: str, bundle: str | None, layout: str, ending: str, **settings: Any
) -> None:
    """Separate the speakers of recordings (WAV, FLAC, OGG, MP3), of any length; INPUT may be a folder, a glob, an address or -.

    Voices have the rate and length of the recording and add up to it. A recording that cannot be separated is reported and
    does not stop the others; the exit code is 1 then.
    """
    from services.batch.sound import default_separator

    chosen = bundle or default_separator([Path(each) for each in _pretrained("separator")], causal=False)
    _run(ctx, "separate", inputs, out, [chosen], {"layout": layout, "ending": f".{ending}"}, settings)


@click.command(short_help="Segment volumes.")
@click.argument("inputs", nargs=-1, metavar="INPUT…")
@click.option("--out", required=True, help="Folder or address for the label maps; the tree of INPUT is kept below it.")
@click.option("--bundle", help="Folder, address or BentoML tag.  [default: the one in pretrained/, where there is but one]")
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["nii.gz", "nii", "nrrd", "mha", "tif", "zarr", "dcm"]),
    help="Of the label maps; dcm is DICOM SEG, for DICOM series.  [default: that of the volume]",
)
@click.option("--spacing", metavar="Z,Y,X", help="Millimetres between voxels, for files that do not say it.")
@click.option("--flips", default="", help="Axes, of z, y and x, that volumes are also looked at mirrored along: slower, surer.")
@click.option("--preview", is_flag=True, help="Write a picture, NAME.png, of three planes with the labels over them.")
@click.option("--summary", is_flag=True, help="Write classes and their millilitres, NAME.json.")
@batch_options
@click.pass_context
def segment(
    ctx: click.Context,
    /,
    inputs: tuple[str, ...],
    out: str,
    bundle: str | None,
    suffix: str | None,
    spacing: str | None,
    flips: str,
    preview: bool,
    summary: bool,
    **settings: Any,
) -> None:
    """Segment volumes (NIfTI, NRRD, MHA, TIFF, DICOM series, OME-Zarr), of any size; INPUT may be a folder, a glob or an address.

    Label maps lie on the volumes' own grids. A volume that cannot be segmented is reported and does not stop the others; the
    exit code is 1 then.
    """
    from services.batch.volumes import default_segmenter
    from services.segmentation import parse_spacing

    chosen = bundle or default_segmenter([Path(each) for each in _pretrained("segmenter")])
    kind = f".{suffix}" if suffix else None
    options = {"suffix": kind, "preview": preview, "summary": summary, "spacing": parse_spacing(spacing), "flips": flips}
    _run(ctx, "segment", inputs, out, [chosen], options, settings)


def _run(
    ctx: click.Context, task: Any, inputs: Sequence[str], out: str, bundles: Sequence[str], options: dict[str, Any], settings: Any
) -> None:
    from services.batch import Run, plan
    from services.batch.telling import run_and_tell, tell_plan

    dry_run, cluster = settings.pop("dry_run"), _cluster(settings)
    wanted = Run(task, inputs, out, bundles, options, cluster=cluster, **settings)
    if dry_run:
        tell_plan(plan(wanted))
        return
    ctx.exit(1 if run_and_tell(wanted) else 0)


def _cluster(settings: dict[str, Any]) -> Cluster | None:
    engine, address = settings.pop("engine"), settings.pop("address")
    if engine == "local":
        if address is not None:
            raise ConfigError("an address without a cluster", where="--address", got=address, fix="Add --engine ray.")
        return None
    from services.batch import Cluster

    return Cluster(address, settings["processes"])


def _refuse_settings(ctx: click.Context) -> None:
    """Options of a run mean nothing where everything goes to stdout."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
    if extra := sorted(given - {"inputs", "bundles"}):
        raise click.UsageError(f"--{extra[0].removesuffix('s').replace('_', '-')} goes with --out.")
    if not ctx.params["inputs"]:
        raise click.UsageError("Missing argument 'INPUT…'.")


def _pretrained(task: str) -> list[str]:
    from services.settings import bundle_folders

    return [str(folder) for folder in bundle_folders(PRETRAINED, task)]
