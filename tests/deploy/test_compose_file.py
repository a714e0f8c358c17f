"""`deploy/compose.yaml` agrees with the settings, the container and the configuration of nginx."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from support.deployed import (
    COMPOSE,
    DEPLOY,
    EXIT_SECONDS,
    compose,
    container_port,
    loadable,
    seconds,
    unknown_settings,
    valkey_users,
)
from support.markdown import DOCS, blocks_of
from support.nginx import NODES_CONFIGURATION, SERVERS
from support.settings import STRICT
from support.valkey import PATIENCE, server

from netra_trio.broker.valkey.backend import ValkeyBackend
from netra_trio.config.loading import load
from netra_trio.config.settings import Settings
from netra_trio.endpoints.paths import HEALTH
from netra_trio.ids import new_node_id

NODES = ("node-1", "node-2")
SECRETS = Path("/run/secrets")
EXAMPLES = {
    f"{SECRETS}/jwt_secret_key": STRICT["JWT_SECRET_KEY"],
    f"{SECRETS}/database_url": "postgresql://netra:x@postgres/netra",
    f"{SECRETS}/metrics_token": "a-token",
    f"{SECRETS}/redis_url": "redis://netra:x@valkey:6379",
}

Service = dict[str, Any]


def services() -> dict[str, Service]:
    """Return the services."""
    found: dict[str, Service] = compose()["services"]
    return found


def settings_of(service: Service, folder: Path, values: Mapping[str, str] = EXAMPLES) -> Settings:
    """Return the settings of a node with these secrets, by their paths."""
    loaded = load(loadable(service["environment"], values, folder), directory=folder)
    # The broker is in a network of its own.
    assert [line.partition(":")[0] for line in loaded.warnings] == ["REDIS_URL"]
    return loaded.settings


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_valid_settings(name: str, tmp_path: Path) -> None:
    node = services()[name]
    assert unknown_settings(node["environment"]) == set()
    settings = settings_of(node, tmp_path)
    assert settings.environment == "production"
    assert seconds(node["stop_grace_period"]) > settings.drain_timeout_ms / 1000 + EXIT_SECONDS
    assert node["ulimits"]["nofile"] > settings.max_connections


def test_the_nodes_differ_in_their_addresses_only() -> None:
    first, second = (services()[name] for name in NODES)
    addresses = [node["networks"]["front"].pop("ipv4_address") for node in (first, second)]
    assert first == second
    port = container_port()
    assert [f"{address}:{port}" for address in addresses] == list(SERVERS[NODES_CONFIGURATION])
    (pool,) = compose()["networks"]["front"]["ipam"]["config"]
    assert all(address.startswith(pool["subnet"].removesuffix("0/24")) for address in addresses)


def test_a_node_is_built_from_the_container_file() -> None:
    build = services()[NODES[0]]["build"]
    context = (COMPOSE.parent / build["context"]).resolve()
    assert (context / build["dockerfile"]).resolve() == DEPLOY / "Containerfile"
    ignored = (context / ".dockerignore").read_text().splitlines()
    assert "deploy/secrets" in ignored, "no secret gets into an image"


def test_every_secret_is_mounted_where_it_is_read() -> None:
    top = compose()["secrets"]
    used = set()
    for name, service in services().items():
        listed = service.get("secrets", [])
        sources = {item["source"] if isinstance(item, dict) else item for item in listed}
        targets = {item["target"] for item in listed if isinstance(item, dict)}
        targets |= {f"{SECRETS}/{item}" for item in listed if isinstance(item, str)}
        used |= sources
        environ = service.get("environment", {})
        read = {value for key, value in environ.items() if key.endswith("_FILE")}
        read |= {word for word in service.get("command", []) if word.startswith(str(SECRETS))}
        if name == "nginx":
            pattern = r"ssl_certificate(?:_key)? (\S+);"
            read = set(re.findall(pattern, NODES_CONFIGURATION.read_text()))
        assert targets == read, name
    assert used == set(top)
    assert {Path(item["file"]).parent.as_posix() for item in top.values()} == {"secrets"}
    assert "/deploy/secrets/" in (DEPLOY.parent / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", NODES)
def test_the_health_check_asks_the_health_of_the_node(name: str) -> None:
    check = services()[name]["healthcheck"]
    command, program, flag, source = check["test"]
    assert (command, program, flag) == ("CMD", "python", "-c")
    compile(source, str(COMPOSE), "exec")
    assert f"'http://127.0.0.1:{container_port()}{HEALTH}'" in source
    (waits,) = re.findall(r"timeout=(\d+)", source)
    assert int(waits) < seconds(check["timeout"])


def test_nothing_is_evicted_or_kept_by_valkey() -> None:
    words = services()["valkey"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--save"], options["--appendonly"]) == ("", "no")


def test_only_nginx_is_reachable_from_outside() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["nginx"]
    networks = compose()["networks"]
    assert networks["back"] == {"internal": True}
    for name in ("valkey", "postgres"):
        assert services()[name]["networks"] == ["back"]
    assert services()["nginx"]["networks"] == ["front"]


def test_every_service_waits_for_what_it_needs() -> None:
    checked = {name for name, service in services().items() if "healthcheck" in service}
    for service in services().values():
        needed = service.get("depends_on", {})
        assert {item["condition"] for item in needed.values()} <= {"service_healthy"}
        assert set(needed) <= checked


def test_images_have_complete_names() -> None:
    images = {service["image"] for service in services().values()} - {"netra-trio"}
    assert all(re.fullmatch(r"docker\.io/[a-z]+/[a-z]+:[a-z0-9.]+", image) for image in images)


def test_nginx_has_the_configuration_for_several_nodes() -> None:
    (mounted,) = services()["nginx"]["configs"]
    assert mounted["target"] == "/etc/nginx/nginx.conf"
    source = compose()["configs"][mounted["source"]]["file"]
    assert (COMPOSE.parent / source).resolve() == NODES_CONFIGURATION


def test_the_documented_commands_write_every_secret(tmp_path: Path) -> None:
    script = next(text for text in shell_blocks() if "new_secret" in text)
    (tmp_path / "deploy").mkdir()
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    for name in ("fullchain.pem", "privkey.pem"):
        (certificates / name).touch()
    script = script.replace("/etc/ssl/chat.example.com", str(certificates))
    assert script.count("sudo chown") == 2
    program = f"set -eu\nsudo() {{ :; }}\n{script}"
    subprocess.run(["bash", "-c", program], cwd=tmp_path, check=True)  # noqa: S603, S607 - so it is documented
    folder = tmp_path / "deploy" / "secrets"
    named = {Path(item["file"]).name for item in compose()["secrets"].values()}
    assert {path.name for path in folder.iterdir()} == named
    owned = set(" ".join(re.findall(r"sudo chown \d+ (.*)", script)).split())
    assert owned == named - {"fullchain.pem", "privkey.pem"}, "nginx reads its files as root"
    node = services()[NODES[0]]
    values = {f"{SECRETS}/{path.name}": path.read_text() for path in folder.iterdir()}
    settings_of(node, tmp_path, values)
    password = re.findall(r"\w+://netra:(.+)@(.+)/netra", values[f"{SECRETS}/database_url"])
    assert password == [(values[f"{SECRETS}/postgres_password"].strip(), "postgres")]


async def test_the_documented_user_of_valkey_is_enough_for_a_node(tmp_path: Path) -> None:
    lines = next(text for text in shell_blocks() if "new_secret" in text).splitlines()
    users = [line for line in lines if line.startswith("user ")]
    assert users == valkey_users("$broker").splitlines()
    file = tmp_path / "users.acl"
    file.write_text(valkey_users("a-password"))
    with server(settings={"aclfile": str(file)}) as valkey:
        assert valkey.command("PING") == b"PONG"
        assert isinstance(valkey.command("GET", "nt:nodes"), Exception), "without the password"
        url = f"unix://netra:a-password@{valkey.socket}"
        backend = ValkeyBackend(new_node_id(), url)
        with trio.fail_after(PATIENCE):
            async with backend.open():
                await backend.directory.renew()


def shell_blocks() -> list[str]:
    """Return the commands on the page about scaling."""
    return [block.text for block in blocks_of(DOCS / "scaling.md") if block.language == "sh"]
