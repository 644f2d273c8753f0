"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("models", "training", "services")
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
} | {"convoy": ROOT / "convoy.py"}

# Training and the networks' definitions are what torch is for.
TORCH_BELONGS = {
    "models.layers",
    "models.tagger.network",
    "models.tagger.crf",
    "models.separator.network",
    "models.separator.state_dicts",
    "models.separator.transformer",
    "models.segmenter.network",
}
FORBIDDEN = {"models": {"training", "services", "convoy"}, "services": {"training", "convoy"}, "training": {"services", "convoy"}}
TORCH = {"torch", "torchaudio", "lightning", "pytorch_lightning", "torchmetrics"}
COMMANDS = [
    "",
    "serve",
    "tag",
    "separate",
    "segment",
    "stream",
    "fit",
    "validate",
    "test",
    "predict",
    "fetch",
    "embed",
    "complete",
    "export",
    "evaluate",
]


def imported_names(tree: ast.AST, module: str, *, everywhere: bool) -> set[str]:
    """Modules that `module` imports: all of them, or only those imported when it is itself imported."""
    names: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                package = parts if MODULES[module].name == "__init__.py" else parts[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
        elif not everywhere and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(node)):
            continue
        waiting.extend(ast.iter_child_nodes(node))
    return names


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(module: str, *, everywhere: bool) -> set[str]:
    return imported_names(ast.parse(MODULES[module].read_text("utf-8")), module, everywhere=everywhere)


def reachable(module: str) -> dict[str, str]:
    """Our modules that are imported when `module` is, each with the one that imports it."""
    importer, waiting = {module: ""}, [module]
    while waiting:
        current = waiting.pop()
        ancestors = {current.rsplit(".", depth)[0] for depth in range(1, current.count(".") + 1)}
        for name in sorted(imports_of(current, everywhere=False) | ancestors):
            if name in MODULES and name not in importer:
                importer[name] = current
                waiting.append(name)
    return importer


def test_the_reader_of_imports_reads_them_all():
    source = """
import a.b, c
from d import e
from .sibling import f
from .. import models as g
if TYPE_CHECKING:
    import h
try:
    import i
except ImportError:
    pass
class J:
    import k
def late():
    import m
"""
    module = "models.tagger.tokens"
    at_import = {"a.b", "c", "d", "d.e", "models.tagger.sibling", "models.tagger.sibling.f", "models", "models.models", "i", "k"}
    assert imported_names(ast.parse(source), module, everywhere=False) == at_import
    assert imported_names(ast.parse(source), module, everywhere=True) == at_import | {"h", "m"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_point_one_way(module):
    forbidden = FORBIDDEN.get(module.split(".")[0], set())
    wrong = sorted(name for name in imports_of(module, everywhere=True) if name.split(".")[0] in forbidden)
    assert not wrong, f"{module} must not import {', '.join(wrong)}"


SERVING = [
    *sorted(module for module in MODULES if module.split(".")[0] == "services"),
    "models.tagger",
    "models.separator",
    "models.separator.predictor",
    "models.segmenter",
    "models.segmenter.predictor",
    "models.bundle",
    "convoy",
]


@pytest.mark.parametrize("module", SERVING)
def test_no_torch_is_imported_on_the_way_to_a_service(module):
    for reached, importer in reachable(module).items():
        names = {name.split(".")[0] for name in imports_of(reached, everywhere=False)}
        assert not names & TORCH, f"{module} reaches {reached} (through {importer}), which imports {names & TORCH}"


def test_torch_stays_in_training_and_in_the_definitions_of_networks():
    strays = {
        module
        for module in MODULES
        if not module.startswith("training")
        and module not in TORCH_BELONGS
        and {name.split(".")[0] for name in imports_of(module, everywhere=False)} & TORCH
    }
    assert not strays, f"these import torch at the head: {sorted(strays)}"


def test_the_gateway_and_the_predictors_start_where_there_is_no_torch():
    program = f"""
import importlib.abc, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(TORCH)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
import services.gateway, services.batch.text, services.batch.runs, convoy
import models.tagger, models.separator.predictor, models.segmenter.predictor
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_within_half_a_second(command):
    """Processor time, the median of three, so that a busy machine fails nothing."""
    seconds = []
    for _ in range(3):
        before = os.times()
        arguments = [sys.executable, "-m", "convoy", *command.split(), "--help"]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
        after = os.times()
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("Usage: convoy")
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert sorted(seconds)[1] < 0.5


def test_the_list_of_commands_here_is_complete():
    from convoy import cli

    assert {*COMMANDS} - {""} == {*cli.commands}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_file_holds_one_idea(module):
    lines = MODULES[module].read_text("utf-8").count("\n")
    assert lines <= 400, f"{MODULES[module].relative_to(ROOT)} has {lines} lines"
