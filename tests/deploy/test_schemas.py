"""The deploy files against the official definitions: Compose's own program, Kubernetes' schemas.

`nox -s deploy` runs this module: what it needs is large, and in no other environment. The modules
that compare these files with the settings are among the ordinary tests.
"""

import importlib
import json
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
KUBERNETES = DEPLOY / "kubernetes"
PROGRAMS = Path(sysconfig.get_path("scripts"))
OLDEST = (1, 34)  # the first version in which everything that is used is stable
MANIFESTS = sorted(set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml"})

Document = dict[str, Any]


def run(program: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a program of this environment."""
    command = [PROGRAMS / program, *arguments]
    return subprocess.run(  # noqa: S603 - a test's own command line
        command, capture_output=True, text=True, check=False, env={"HOME": "/nonexistent"}
    )


def versions() -> list[str]:
    """Return the versions of Kubernetes that have to work, as far as their schemas are known."""
    known: list[str] = importlib.import_module("kubernetes_validate").utils.all_versions()
    short = {".".join(version.split(".")[:2]) for version in known}
    found = [text for text in short if tuple(map(int, text.split("."))) >= OLDEST]
    assert len(found) >= 3
    return sorted(found)


def documents() -> Iterator[Document]:
    """Yield the objects of all manifests."""
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def faults(document: Document) -> list[str]:
    """Return the versions of Kubernetes that reject an object, unknown fields included."""
    package = importlib.import_module("kubernetes_validate")
    found = []
    for version in versions():
        try:
            package.validate(document, version, strict=True)
        except package.ValidationError as error:
            found.append(f"{version}: {error.message}")
    return found


def test_compose_accepts_its_file() -> None:
    done = run("docker-compose", "--file", COMPOSE, "config", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    resolved = json.loads(done.stdout)
    assert set(resolved["services"]) == set(yaml.safe_load(COMPOSE.read_text())["services"])
    assert resolved["services"]["node-1"]["stop_grace_period"] == "40s"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stop_grace_period: 40s", "stop_grace_periods: 40s"),
        ("stop_grace_period: 40s", "stop_grace_period: forty"),
        ("condition: service_healthy", "condition: service_well"),
        ("networks: [back]", "networks: [behind]"),
        ("secrets: [valkey_acl]", "secrets: [valkey_list]"),
    ],
)
def test_compose_rejects_another_file(tmp_path: Path, old: str, new: str) -> None:
    text = COMPOSE.read_text()
    assert old in text
    changed = tmp_path / "compose.yaml"
    changed.write_text(text.replace(old, new, 1))
    assert run("docker-compose", "--file", changed, "config", "--quiet").returncode != 0


@pytest.mark.parametrize(
    "document", list(documents()), ids=lambda item: f"{item['kind']}-{item['metadata']['name']}"
)
def test_kubernetes_accepts_a_manifest(document: Document) -> None:
    assert faults(document) == []


def test_kubernetes_rejects_another_manifest() -> None:
    (deployment,) = (
        item
        for item in documents()
        if (item["kind"], item["metadata"]["name"]) == ("Deployment", "netra")
    )
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 45
    assert len(faults(deployment)) == len(versions())


def test_kustomize_builds_everything_but_the_secret() -> None:
    done = run("kubectl", "kustomize", KUBERNETES)
    assert (done.returncode, done.stderr) == (0, "")
    built = list(yaml.safe_load_all(done.stdout))
    names = sorted((item["kind"], item["metadata"]["name"]) for item in built)
    expected = {(item["kind"], item["metadata"]["name"]) for item in documents()}
    assert names == sorted(expected - {("Secret", "netra")})
    assert [fault for item in built for fault in faults(item)] == []
    (image,) = {
        one["image"]
        for item in built
        if item["metadata"]["name"] == "netra" and item["kind"] == "Deployment"
        for one in item["spec"]["template"]["spec"]["containers"]
    }
    assert image.endswith("/netra-trio:0.1.0")
