from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import pickle
import shlex
import socket
import sys
import types
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import convoy
import convoy_batch
from models.errors import BundleError
from models.tagger.vectors import VectorTable
from tests.bundles import FILES, make_spec

run = CliRunner().invoke


@pytest.fixture
def stub(monkeypatch):
    """Put a module in place whose functions record how they were called."""
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def put(module: str, function: str, answer: object = None) -> list[tuple[tuple[object, ...], dict[str, object]]]:
        def record(*arguments: object, **keywords: object) -> object:
            calls.append((arguments, keywords))
            if isinstance(answer, Exception):
                raise answer
            return answer

        fake = types.ModuleType(module)
        setattr(fake, function, record)
        monkeypatch.setitem(sys.modules, module, fake)
        return calls

    return put


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_training_commands_hand_everything_to_lightning(stub, command):
    calls = stub("training.cli", "main")
    arguments = ["--config", "a.yaml", "--trainer.max_epochs=3", "--model.dilations", "[1,2]", "--lr", "-1", "--print_config"]
    assert run(convoy.cli, [command, *arguments]).exit_code == 0
    assert calls == [(([command, *arguments],), {})]


def test_help_all_is_lightnings_help(stub):
    calls = stub("training.cli", "main")
    assert run(convoy.cli, ["fit", "--help-all", "--config", "a.yaml"]).exit_code == 0
    assert calls == [((["fit", "--config", "a.yaml", "--help"],), {})]


def test_short_help_tells_of_the_long_one():
    result = run(convoy.cli, ["fit", "--help"])
    assert result.exit_code == 0
    assert "convoy fit --help-all" in result.output


@pytest.mark.parametrize(("arguments", "missing"), [(["fit"], "torch"), (["embed", ".", "--out", "v"], "gensim")])
def test_without_the_train_extra_the_message_says_what_to_run(monkeypatch, arguments, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {missing, "lightning"} else found(name))
    result = run(convoy.cli, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "Run `make dev` once, then `.venv-dev/bin/convoy`" in result.stderr
    assert "Traceback" not in result.output


def test_our_errors_are_one_line_without_a_traceback(stub):
    stub("training.cli", "main", BundleError("broken", where="here", fix="Mend it."))
    result = run(convoy.cli, ["fit"])
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", "error: here: broken. Mend it.\n")


def test_other_errors_are_not_hidden(stub):
    stub("training.cli", "main", ZeroDivisionError("a bug"))
    assert isinstance(run(convoy.cli, ["fit"]).exception, ZeroDivisionError)


def test_embed_passes_what_was_given_and_leaves_the_rest_to_the_function(stub, tmp_path):
    calls = stub("training.tagger.embed", "train_vectors")
    given = ["--algorithm", "cbow", "--dim", "8", "--ratios", "0.8,0.1,0.1", "--part", "0", "--contiguous"]
    more = ["--option", "fold_width=true", "--option", 'columns=["token","ner"]', "--option", "separator=,"]
    result = run(convoy.cli, ["embed", "a/*.txt", "b", "--out", str(tmp_path / "v"), *given, *more])
    assert result.exit_code == 0, result.output
    [(arguments, settings)] = calls
    assert arguments == (["a/*.txt", "b"], tmp_path / "v")
    expected = {"algorithm": "cbow", "dim": 8, "ratios": [0.8, 0.1, 0.1], "part": 0, "contiguous": True, "fold_width": True}
    assert expected | {"columns": ["token", "ner"], "separator": ","} == {
        name: value for name, value in settings.items() if name in {*expected, "columns", "separator"}
    }
    assert not {"seed", "format", "max_words", "more"} & settings.keys()


@pytest.mark.parametrize(("dtype", "scaled"), [("float32", False), ("int8", True)])
def test_embed_converts_vectors_of_other_programs(tmp_path, dtype, scaled):
    (tmp_path / "glove.txt").write_text("the 1 -2\nof 0.5 0.25\nrare 3 3\n")
    arguments = ["--from", str(tmp_path / "glove.txt"), "--out", str(tmp_path / "v"), "--max-words", "2", "--dtype", dtype]
    result = run(convoy.cli, ["embed", *arguments, "--format", "glove"])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'v.npy'}\n"), result.output
    table = VectorTable.open(tmp_path / "v")
    assert (table.words, str(table.matrix.dtype)) == (["the", "of"], dtype)
    assert (tmp_path / "v.scale.npy").exists() == scaled
    np.testing.assert_allclose(table.vectors(np.arange(2)), [[1, -2], [0.5, 0.25]], atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a CORPUS to train on, or vectors to convert with --from"),
        (["corpus.txt", "--from", "v"], "not with CORPUS"),
        (["--from", "v", "--dim", "100", "--min-count", "2"], "not with --dim, --min-count"),
        (["--from", "v", "--option", "a=1"], "not with --option"),
        (["--from", "v", "--dtype", "float64"], "'float64' is not one of"),
        (["--from", "none"], "none: no such file"),
    ],
)
def test_embed_refuses_what_does_not_go_together(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(convoy.cli, ["embed", *arguments, "--out", "v"])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not any(tmp_path.iterdir())


def test_fetch_names_every_data_set_and_prints_the_folders(monkeypatch, tmp_path):
    from training import fetch

    described = run(convoy.cli, ["fetch", "--help"]).output
    assert all(name in described for name in fetch.DATA_SETS)
    calls = []
    monkeypatch.setattr(fetch, "fetch", lambda names, out: calls.append((names, out)) or [out / name for name in names])
    result = run(convoy.cli, ["fetch", "brown", "glove", "--out", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'brown'}\n{tmp_path / 'glove'}\n")
    run(convoy.cli, ["fetch", "brown"])
    assert calls == [(("brown", "glove"), tmp_path), (("brown",), Path("data"))]


def test_fetch_of_an_unknown_name_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(convoy.cli, ["fetch", "everything"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: everything: unknown data set: expected people-daily, ")


def test_commands_at_the_head_of_the_chinese_recipe_are_understood(stub, monkeypatch, tmp_path):
    """The commands of the comment, with the functions behind them replaced; the values are the published model's."""
    from training import fetch

    text = (convoy.ROOT / "training/configs/tagger-zh.yaml").read_text("utf-8")
    head = "".join(line.removeprefix("#") for line in text.splitlines(keepends=True) if line.startswith("#"))
    lines = head.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("   convoy ")]
    assert [command[0] for command in commands] == ["fetch", "embed", "embed", "fit", "export"]
    monkeypatch.setattr(fetch, "fetch", lambda names, out: [])
    vectors = stub("training.tagger.embed", "train_vectors")
    for command in commands[:3]:
        result = run(convoy.cli, command)
        assert result.exit_code == 0, result.output
    corpora = ["data/people-daily/199801.txt", "data/reviews/pos.txt", "data/reviews/neg.txt"]
    folded = {"fold_width": True, "drop_duplicates": True, "split_sentences": True}
    shared = {"ratios": [0.8, 0.1, 0.1], "contiguous": True, "epochs": 5} | folded
    asked = {
        "zh-characters": {"unit": "character", "dim": 64, "window": 4, "min_count": 2},
        "zh-bigrams": {"unit": "bigram", "dim": 48, "window": 3, "min_count": 3, "max_words": 80000},
    }
    for (arguments, settings), (name, expected) in zip(vectors, asked.items(), strict=True):
        assert arguments == (corpora, Path("data/vectors", name))
        assert {key: settings.get(key) for key in shared | expected} == shared | expected
    export = convoy.cli.commands["export"]
    options = {option for parameter in export.params for option in parameter.opts}
    assert {word for word in commands[-1] if word.startswith("--")} <= options
    assert commands[3][1:] == ["--config", "training/configs/tagger-zh.yaml"]


def test_embed_has_the_defaults_of_the_function_it_calls():
    function = inspect.signature(importlib.import_module("training.tagger.embed").train_vectors).parameters
    for option in convoy.cli.commands["embed"].params:
        if isinstance(option, click.Option) and option.name in function and option.show_default:
            assert option.default == function[option.name].default, option.name


@pytest.mark.parametrize("wrong", [["--ratios", "a,b"], ["--option", "nothing"], ["--option", "not a name=1"]])
def test_settings_that_cannot_be_read_are_named(wrong):
    result = run(convoy.cli, ["evaluate", "bundle", "data", *wrong])
    assert result.exit_code == 2
    assert f"got '{wrong[1]}'" in result.stderr


def test_export_passes_both_places(stub, tmp_path):
    checkpoint = tmp_path / "a.ckpt"
    checkpoint.write_bytes(pickle.dumps({}))
    calls = stub("training.export", "export_bundle", tmp_path / "b")
    for name in ("card.yaml", "figures.json"):
        (tmp_path / name).write_text("{}")
    card, figures = tmp_path / "card.yaml", tmp_path / "figures.json"
    for more in ([], ["--card", str(card), "--figures", str(figures)]):
        result = run(convoy.cli, ["export", str(checkpoint), str(tmp_path / "b"), *more])
        assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'b'}\n"), result.output
    assert [arguments for arguments, _ in calls] == [(checkpoint, tmp_path / "b")] * 2
    assert [settings for _, settings in calls] == [{"card": None, "figures": None}, {"card": card, "figures": figures}]
    result = run(convoy.cli, ["export", str(checkpoint), str(tmp_path / "b"), "--card", str(tmp_path / "none")])
    assert (result.exit_code, len(calls)) == (2, 2)


def test_evaluate_finds_the_measures_through_the_bundles_task(stub, tmp_path):
    from models.bundle import write_bundle

    bundle = write_bundle(tmp_path / "b", make_spec(task="weather"), FILES)
    calls = stub("training.weather.evaluate", "evaluate")
    result = run(
        convoy.cli, ["evaluate", str(bundle), "data.conllu", "--out", "figures", "--seed", "3", "--option", "column=ner"]
    )
    assert result.exit_code == 0, result.output
    assert calls == [((str(bundle), "data.conllu"), {"out": Path("figures"), "seed": 3, "column": "ner"})]


def test_evaluate_of_a_missing_bundle_is_one_line(tmp_path):
    result = run(convoy.cli, ["evaluate", str(tmp_path / "none"), "data"])
    assert result.exit_code == 2
    assert "there is no bundle" in result.stderr


@pytest.fixture
def executed(monkeypatch):
    """What `serve` would become, without becoming it; the working directory is put back."""
    monkeypatch.chdir(Path.cwd())
    calls = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    return calls


def test_serve_starts_bentoml_in_the_checkout_with_its_counter_off(executed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    result = run(convoy.cli, ["serve", "--port", str(free_port()), "--bundles", "mine", "--workers", "3"])
    assert result.exit_code == 0, result.output
    [(program, command, environment)] = executed
    assert program == sys.executable
    assert command[1:5] == ["-m", "bentoml", "serve", "services.gateway:Gateway"]
    assert "--reload" not in command
    assert environment["BENTOML_DO_NOT_TRACK"] == "True"
    assert environment["CONVOY_BUNDLES"] == str(tmp_path / "mine")
    assert environment["CONVOY_WORKERS"] == "3"
    assert Path.cwd() == convoy.ROOT


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("localhost", "localhost")])
def test_serve_says_where_the_page_is(executed, host, shown):
    port = free_port()
    result = run(convoy.cli, ["serve", "--port", str(port), "--host", host])
    assert f"Convoy is at http://{shown}:{port} (page, POST /tag, POST /separate, POST /segment)" in result.output
    assert [executed[0][1][5:9]] == [["--host", host, "--port", str(port)]]


def test_serve_refuses_a_port_in_use(executed):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run(convoy.cli, ["serve", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 2
    assert "Choose another port" in result.stderr
    assert executed == []


def test_serve_refuses_a_damaged_bundle_before_it_starts(executed, tmp_path):
    (tmp_path / "tagger-xx").mkdir()
    (tmp_path / "tagger-xx" / "bundle.json").write_text("{}", encoding="utf-8")
    result = run(convoy.cli, ["serve", "--bundles", str(tmp_path)])
    assert result.exit_code == 2
    assert "tagger-xx" in result.stderr
    assert executed == []


def test_serve_refuses_a_missing_folder(executed, tmp_path):
    result = run(convoy.cli, ["serve", "--bundles", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "no such folder of bundles" in result.stderr
    assert executed == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_tag_reads_stdin_and_writes_lines_of_json(monkeypatch):
    from models.tagger import TaggedText, TaggedToken
    from services.batch import text

    class Letters:
        def __init__(self, bundles):
            assert bundles == ("mine",)

        def tag(self, texts):
            return [TaggedText([TaggedToken(text[0], 0, 1, "X", 0.5)], []) for text in texts]

    monkeypatch.setattr(text, "TaggerChoice", Letters)
    result = run(convoy.cli, ["tag", "-", "--bundle", "mine"], input="Ada\n\n词语\n")
    assert result.exit_code == 0, result.output
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first["tokens"] == [{"text": "A", "start": 0, "end": 1, "label": "X", "confidence": 0.5}]
    assert (second["source"], second["line"], second["text"]) == ("-", 3, "词语")


# ── separate and stream ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def separators(monkeypatch, tmp_path):
    """A separator that loads anything, and a folder of bundles with nothing in it."""
    import models.separator

    monkeypatch.setattr(convoy, "ROOT", tmp_path)
    monkeypatch.setattr(convoy_batch, "PRETRAINED", tmp_path)
    monkeypatch.setattr(models.separator, "Separator", types.SimpleNamespace(load=lambda path: f"loaded {path}"), raising=False)


@pytest.fixture
def told(monkeypatch):
    """What the commands for many files ask for; nothing is run."""
    from services.batch import telling

    calls: list = []
    monkeypatch.setattr(telling, "run_and_tell", lambda wanted: calls.append(wanted) or 0)
    return calls


def test_separate_hands_on_what_it_is_given(told, tmp_path):
    from services.batch import Cluster, Run

    out = str(tmp_path / "out")
    arguments = ["separate", "a.wav", "b", "--out", out, "--bundle", "some/bundle"]
    more = ["--layout", "files", "--format", "flac", "--manifest", "m.csv", "--name", "{stem}", "--retry-failed", "--fail-fast"]
    cluster = ["--engine", "ray", "--address", "head:6379", "--processes", "3", "--check", "size"]
    for given in (arguments, [*arguments, *more], [*arguments, *cluster]):
        assert run(convoy.cli, given).exit_code == 0
    plain = {"layout": "channels", "ending": ".wav"}
    inputs, bundles = ("a.wav", "b"), ["some/bundle"]
    assert told == [
        Run("separate", inputs, out, bundles, plain),
        Run(
            "separate",
            inputs,
            out,
            bundles,
            {"layout": "files", "ending": ".flac"},
            manifests=("m.csv",),
            name="{stem}",
            retry_failed=True,
            fail_fast=True,
        ),
        Run("separate", inputs, out, bundles, plain, processes=3, cluster=Cluster("head:6379", 3), check="size"),
    ]


def test_failed_files_are_told_by_the_exit_code(monkeypatch, tmp_path):
    from services.batch import telling

    monkeypatch.setattr(telling, "run_and_tell", lambda wanted: 2)
    assert run(convoy.cli, ["segment", "a.nii", "--out", str(tmp_path), "--bundle", "b"]).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tag", "a.txt", "--name", "{stem}"], "--name goes with --out"),
        (["tag", "a.txt", "--manifest", "a.csv"], "--manifest goes with --out"),
        (["tag"], "Missing argument"),
        (["separate", "a.wav", "--out", "o", "--bundle", "b", "--address", "x"], "an address without a cluster"),
        (["separate", "--out", "o", "--bundle", "b"], "nothing to work on"),
    ],
)
def test_what_does_not_fit_together_is_said(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(convoy.cli, arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_stream_says_how_far_behind_it_was(separators, monkeypatch):
    import services.stream_file

    calls = []
    monkeypatch.setattr(services.stream_file, "stream_file", lambda *given: calls.append(given) or "a little behind")
    result = run(convoy.cli, ["stream", "-", "--bundle", "some/bundle", "--out", "-", "--rate", "16000", "--channels", "2"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "a little behind\n")
    assert calls == [("-", "loaded some/bundle", "-", 16000, 2)]


@pytest.mark.parametrize("command", [["separate", "a.wav", "--out", "x"], ["stream", "a.wav"]])
def test_without_a_bundle_separating_says_what_to_do(separators, command):
    result = run(convoy.cli, command)
    assert result.exit_code == 2
    assert "there is no bundle to separate with" in result.stderr
    assert "--bundle" in result.stderr
