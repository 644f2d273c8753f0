"""The files for containers: a small and safe image, what the service really has, and their own tools where these are there."""

from __future__ import annotations

import fnmatch
import importlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from services.gateway import Gateway
from services.openapi import document
from services.segmenter import SegmenterService
from services.separator import SeparatorService
from services.settings import Settings
from services.tagger import TaggerService

CHECKOUT = Path(__file__).resolve().parent.parent.parent
DEPLOY = CHECKOUT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "bento.dockerfile"]
BATCH = DEPLOY / "batch.dockerfile"
SETTINGS = {f"CONVOY_{field.name.upper()}" for field in fields(Settings)}
USER = 10001


def instructions(path):
    """Of a Dockerfile, in order: name and argument."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in lines)]


def names_of_settings(value):
    if isinstance(value, dict):
        yield from (key for key in value if key.startswith("CONVOY_"))
        yield from [value["name"]] if str(value.get("name", "")).startswith("CONVOY_") else []
        yield from (name for child in value.values() for name in names_of_settings(child))
    elif isinstance(value, list):
        yield from (name for child in value for name in names_of_settings(child))


# ---- images --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_runs_is_small_and_not_root(path):
    found = instructions(path)
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    stage = found[last:]
    users = [value for name, value in stage if name == "USER"]
    assert users == [f"{USER}:{USER}"]
    runs = " ".join(value for name, value in stage if name == "RUN")
    assert not [word for word in ("apt", "gcc", "build-essential", "git", "curl", "pip install", "torch") if word in runs.split()]
    assert "pip uninstall" in runs
    order = [name for name, _ in stage]
    assert order.index("USER") > max(index for index, name in enumerate(order) if name in {"RUN", "COPY"})
    assert {"HEALTHCHECK", "EXPOSE", "VOLUME", "STOPSIGNAL"} <= set(order)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_packages_are_wheels_by_their_hash(path):
    runs = " ".join(value for name, value in instructions(path) if name == "RUN")
    assert runs.count("install --no-cache-dir") == 1
    assert "--only-binary :all: --require-hashes -r /base.lock" in runs


def test_both_images_differ_in_where_things_lie_only():
    ours, bentos = (set(instructions(path)) for path in DOCKERFILES)
    assert {name for name, _ in ours ^ bentos} == {"COPY", "ARG", "ENV"}
    environment = [next(value for name, value in instructions(path) if name == "ENV") for path in DOCKERFILES]
    assert environment[0].replace("${SERVICE}", "/convoy") == environment[1]


def test_the_context_holds_what_is_copied_and_no_more():
    rules = [line for line in (CHECKOUT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]
    kept = {rule[1:] for rule in rules if rule[0] == "!"}
    copies = [value.split()[:-1] for path in (DOCKERFILES[0], BATCH) for name, value in instructions(path) if name == "COPY"]
    copied = {source for sources in copies if "--from=packages" not in sources for source in sources}
    assert kept == copied
    assert rules[0] == "*"
    assert all((CHECKOUT / name).exists() for name in kept)


def test_the_environment_names_settings_that_there_are():
    for path in DOCKERFILES:
        named = {word.partition("=")[0] for name, value in instructions(path) if name == "ENV" for word in value.split()}
        assert {name for name in named if name.startswith("CONVOY_")} - {"CONVOY_SERVICE"} <= SETTINGS


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([hadolint, *DOCKERFILES, BATCH], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout


# ---- bentos --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "service"), [("tagger", TaggerService), ("separator", SeparatorService), ("segmenter", SegmenterService)]
)
def test_bentos_of_one_task_are_built_as_the_gateways(name, service):
    whole, alone = (
        yaml.safe_load(path.read_text("utf-8")) for path in (CHECKOUT / "bentofile.yaml", DEPLOY / "bentofiles" / f"{name}.yaml")
    )
    assert {key for key in whole if whole[key] != alone[key]} == {"service", "description", "include"}
    assert getattr(importlib.import_module(f"services.{name}"), alone["service"].partition(":")[2]) is service
    bundles = {path.name for path in (CHECKOUT / "pretrained").iterdir() if path.name.startswith(f"{name}-")}
    [changed] = set(alone["include"]) - set(whole["include"])
    taken = {path.name for path in (CHECKOUT / "pretrained").iterdir() if fnmatch.fnmatch(f"pretrained/{path.name}/x", changed)}
    assert taken == bundles
    assert (CHECKOUT / whole["docker"]["dockerfile_template"]).is_file()


# ---- compose -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))


def test_the_composed_service_is_bounded_and_writes_where_it_may(compose):
    convoy = compose["services"]["convoy"]
    assert (convoy["read_only"], convoy["cap_drop"], convoy["user"]) == (True, ["ALL"], f"{USER}:{USER}")
    assert convoy["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory"} == set(convoy["deploy"]["resources"]["limits"])
    assert convoy["pids_limit"]
    assert convoy["volumes"] == ["state:/var/lib/convoy"]
    assert "state" in compose["volumes"]
    assert convoy["tmpfs"][0].startswith("/tmp:")
    assert convoy["ports"][0].startswith("${CONVOY_PORT:-127.0.0.1:")  # nobody else reaches it unasked
    assert (DEPLOY / convoy["build"]["context"] / convoy["build"]["dockerfile"]).is_file()
    assert compose["services"]["postgres"]["profiles"] == ["postgres"]
    assert set(names_of_settings(convoy["environment"])) <= SETTINGS


def test_the_compose_specification_takes_it():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout


# ---- kubernetes ----------------------------------------------------------------------------------------------------------------

MANIFEST = DEPLOY / "kubernetes" / "convoy.yaml"


@pytest.fixture(scope="module")
def resources():
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text("utf-8"))}


def test_the_pod_may_do_nothing_that_it_need_not(resources):
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, USER)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert {"cpu", "memory"} == set(container["resources"]["requests"])


def test_what_it_writes_lies_on_volumes(resources):
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts) == set(volumes)
    assert (mounts["state"], mounts["tmp"]) == ("/var/lib/convoy", "/tmp")
    assert volumes["state"]["persistentVolumeClaim"]["claimName"] == resources["PersistentVolumeClaim"]["metadata"]["name"]
    environment = {each["name"]: each for each in pod["containers"][0]["env"]}
    assert set(environment) <= SETTINGS
    assert environment["CONVOY_API_KEYS_FILE"]["value"] == f"{mounts['keys']}/{volumes['keys']['secret']['items'][0]['path']}"


def test_its_probes_ask_what_the_service_answers(resources):
    described = document(Gateway)["paths"]
    [container] = resources["Deployment"]["spec"]["template"]["spec"]["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "get" in described[container[name]["httpGet"]["path"]]
        assert container[name]["httpGet"]["port"] == container["ports"][0]["name"]
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (resources["Service"]["spec"]["selector"], resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()


def test_kubernetes_schemas_take_it():
    for resource in yaml.safe_load_all(MANIFEST.read_text("utf-8")):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


# ---- batches on a cluster ------------------------------------------------------------------------------------------------------


def test_the_image_for_batches_holds_wheels_by_their_hash_and_runs_as_a_user():
    found = instructions(BATCH)
    runs = " ".join(value for name, value in found if name == "RUN")
    assert "--only-binary :all: --require-hashes -r /batch.lock" in runs
    assert [value for name, value in found if name == "USER"] == [f"{USER}:{USER}"]
    assert not [word for word in ("gcc", "build-essential", "git", "torch") if word in runs.split()]


def test_the_job_runs_a_command_that_there_is_with_the_version_of_ray_that_is_locked():
    import shlex

    import convoy_batch

    job = yaml.safe_load((DEPLOY / "kubernetes" / "batch.yaml").read_text("utf-8"))
    program, command, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("convoy", "separate")
    context = convoy_batch.separate.make_context("separate", arguments)
    assert (context.params["engine"], context.params["address"]) == ("ray", "auto")
    assert (CHECKOUT / context.params["bundle"].removeprefix("/convoy/") / "bundle.json").exists()
    cluster = job["spec"]["rayClusterSpec"]
    assert f"\nray=={cluster['rayVersion']} " in (CHECKOUT / "requirements" / "batch.lock").read_text("utf-8")
    pods = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsUser"] == USER
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert set(container["resources"]) == {"requests", "limits"}
