"""The manifests in `deploy/kubernetes` agree with each other, the settings and the container."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from support.deployed import (
    EXAMPLE_SECRET,
    EXIT_SECONDS,
    KUBERNETES,
    Document,
    container,
    container_port,
    loadable,
    manifests,
    of_kind,
    seconds,
    unknown_settings,
)
from support.settings import STRICT, faults

from netra_trio.config.loading import load
from netra_trio.config.settings import Settings
from netra_trio.endpoints.paths import CONFIG, HEALTH

HEARTBEATS = 3  # that a proxy waits at least
WORKLOADS = ("Deployment", "StatefulSet")


def workloads() -> list[Document]:
    """Return what runs pods."""
    return [document for document in manifests() if document["kind"] in WORKLOADS]


def pod_of(workload: Document) -> Document:
    """Return the specification of its pods."""
    pod: Document = workload["spec"]["template"]["spec"]
    return pod


def named(kind: str, name: str) -> Document:
    """Return an object."""
    (found,) = (document for document in of_kind(kind) if document["metadata"]["name"] == name)
    return found


def netra() -> tuple[Document, Document]:
    """Return the pods of the nodes, and their container."""
    pod = pod_of(named("Deployment", "netra"))
    (one,) = pod["containers"]
    return pod, one


def environ() -> dict[str, str]:
    """Return the settings of the nodes."""
    _, one = netra()
    (source,) = one["envFrom"]
    data: dict[str, str] = named("ConfigMap", source["configMapRef"]["name"])["data"]
    return data


def secrets() -> dict[str, str]:
    """Return the example of the secret."""
    values: dict[str, str] = named("Secret", "netra")["stringData"]
    return values


def mounted(pod: Document) -> dict[str, str]:
    """Return the key of the secret by the path of its file, in the only container of a pod."""
    (one,) = pod["containers"]
    paths = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
    assert set(paths) >= {volume["name"] for volume in pod["volumes"]}, "every volume is mounted"
    found = {}
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["secretName"] == "netra"
            assert volume["secret"]["defaultMode"] == 0o440, "readable for its group only"
            for item in volume["secret"]["items"]:
                found[f"{paths[volume['name']]}/{item['path']}"] = item["key"]
    return found


def files_of(value: Any) -> set[str]:
    """Return the paths below /run/secrets that occur in a part of a document."""
    if isinstance(value, dict):
        return set().union(*map(files_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(files_of, value))
    is_path = isinstance(value, str) and value.startswith("/run/secrets/")
    return {value} if is_path else set()


def test_the_settings_are_valid(tmp_path: Path) -> None:
    assert unknown_settings(environ()) == set()
    pod, _ = netra()
    keys = mounted(pod)
    examples = {**secrets(), "jwt-secret-key": STRICT["JWT_SECRET_KEY"]}
    for key in ("database-url", "redis-url"):
        examples[key] = re.sub("<[a-z ]+>", "x", examples[key])
    values = {path: examples[key] for path, key in keys.items()}
    loaded = load(loadable(environ(), values, tmp_path), directory=tmp_path)
    # The broker is in a network of its own.
    assert [line.partition(":")[0] for line in loaded.warnings] == ["REDIS_URL"]
    assert loaded.settings.environment == "production"


def test_no_node_starts_with_the_example_of_the_secret(tmp_path: Path) -> None:
    pod, _ = netra()
    values = {path: secrets()[key] for path, key in mounted(pod).items()}
    lines = faults(tmp_path, loadable(environ(), values, tmp_path))
    assert any(line.startswith("JWT_SECRET_KEY") for line in lines)


def test_a_pod_has_time_to_drain() -> None:
    pod, one = netra()
    before = one["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(environ()["WEBSOCKET_DRAIN_TIMEOUT"]) / 1000
    assert pod["terminationGracePeriodSeconds"] > before + drain + EXIT_SECONDS


def test_an_update_takes_no_node_away_before_the_next_one_is_ready() -> None:
    spec = named("Deployment", "netra")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }


def test_the_probes() -> None:
    """Only readiness depends on the drain; `test_nginx_nodes.py` asks a draining node both."""
    _, one = netra()
    paths = {kind: one[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")}
    assert paths == {"startup": CONFIG, "liveness": CONFIG}
    assert one["readinessProbe"]["httpGet"]["path"] == HEALTH
    liveness = one["livenessProbe"]
    patience = liveness["periodSeconds"] * liveness["failureThreshold"]
    assert patience >= int(environ()["WEBSOCKET_DRAIN_TIMEOUT"]) / 1000 * 2
    assert liveness["timeoutSeconds"] > one["readinessProbe"]["timeoutSeconds"]


def test_the_container() -> None:
    pod, one = netra()
    assert one["image"] == "netra-trio"
    (port,) = one["ports"]
    assert port["containerPort"] == container_port()
    parts = dict(container())
    assert pod["securityContext"]["runAsUser"] == int(parts["USER"])
    assert "command" not in one, "the image knows its command"


@pytest.mark.parametrize("workload", workloads(), ids=lambda item: item["metadata"]["name"])
def test_pods_have_no_privileges(workload: Document) -> None:
    pod = pod_of(workload)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"], "no variables beside the settings"
    for one in pod["containers"]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_every_secret_is_mounted_where_it_is_read() -> None:
    keys = set()
    for workload in workloads():
        pod = pod_of(workload)
        files = mounted(pod)
        read = files_of(pod["containers"]) - {
            mount["mountPath"] for one in pod["containers"] for mount in one["volumeMounts"]
        }
        if workload["metadata"]["name"] == "netra":
            read = files_of(environ())
        assert set(files) == read, workload["metadata"]["name"]
        keys |= set(files.values())
    assert keys == set(secrets())


def test_selectors_select_the_pods() -> None:
    labels = {
        w["metadata"]["name"]: w["spec"]["template"]["metadata"]["labels"] for w in workloads()
    }
    for workload in workloads():
        name, spec = workload["metadata"]["name"], workload["spec"]
        assert spec["selector"]["matchLabels"] == labels[name]
        for constraint in pod_of(workload).get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"] == labels[name]
    for service in of_kind("Service"):
        assert service["spec"]["selector"] == labels[service["metadata"]["name"]]
    for budget in of_kind("PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"] == labels[budget["metadata"]["name"]]
    for policy in of_kind("NetworkPolicy"):
        spec = policy["spec"]
        assert spec["podSelector"]["matchLabels"] == labels[policy["metadata"]["name"]]
        (rule,) = spec["ingress"]
        assert rule["from"] == [{"podSelector": {"matchLabels": labels["netra"]}}]


def test_services_lead_to_ports_of_the_pods() -> None:
    for service in of_kind("Service"):
        name = service["metadata"]["name"]
        (workload,) = (w for w in workloads() if w["metadata"]["name"] == name)
        ports = {port["name"] for one in pod_of(workload)["containers"] for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("key", ["database-url", "redis-url"])
def test_the_urls_lead_to_services(key: str) -> None:
    url = urlsplit(re.sub("<[a-z ]+>", "x", secrets()[key]))
    (port,) = named("Service", str(url.hostname))["spec"]["ports"]
    assert port["port"] == (url.port or 5432)


def test_the_ingress_waits_for_heartbeats_and_leads_to_the_nodes() -> None:
    (ingress,) = of_kind("Ingress")
    notes = ingress["metadata"]["annotations"]
    heartbeat = Settings().heartbeat_interval_ms / 1000
    for name in ("read", "send"):
        assert seconds(notes[f"nginx.org/proxy-{name}-timeout"]) >= HEARTBEATS * heartbeat
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    assert notes["nginx.org/websocket-services"] == backend["name"]
    ports = named("Service", backend["name"])["spec"]["ports"]
    assert backend["port"]["name"] in {port["name"] for port in ports}
    assert f"https://{rule['host']}" == environ()["WEBSOCKET_ALLOWED_ORIGINS"]


def test_nothing_is_evicted_or_kept_by_valkey() -> None:
    (one,) = pod_of(named("Deployment", "netra-valkey"))["containers"]
    words = one["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    assert named("Deployment", "netra-valkey")["spec"]["strategy"] == {"type": "Recreate"}


def test_every_manifest_but_the_secret_is_applied_in_any_namespace() -> None:
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert set(listed["resources"]) == files - {"kustomization.yaml", EXAMPLE_SECRET.name}
    assert not any("namespace" in document["metadata"] for document in manifests())
