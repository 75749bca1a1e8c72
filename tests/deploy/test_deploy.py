"""What is in deploy/, each file by its tool's own validator, and against what the gateway knows."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dragoman.config import load_config
from dragoman.server.metric_names import FAMILIES
from dragoman.settings import Config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OBJECTS = [path for path in KUBERNETES if path.name != "kustomization.yaml"]
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
SECRETS = {
    "DRAGOMAN_SIGNING_SECRET": "a secret of sixteen bytes or more",
    "DRAGOMAN_STORE_URL": "postgresql://dragoman:word@postgres/dragoman",
    "DRAGOMAN_REDIS_URL": "redis://redis:6379/0",
    "DRAGOMAN_METRICS_TOKEN": "a-token-of-sixteen-bytes-or-more",
    "DEEPSEEK_API_KEY": "sk-of-nobody",
}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a validator of the environment that these tests run in."""
    program, *arguments = map(str, command)
    path = Path(sys.executable).with_name(program)
    return subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def passes(*command: str | Path) -> None:
    result = run(*command)
    assert result.returncode == 0, result.stdout + result.stderr


# -- by their own validators


def test_the_container_file() -> None:
    passes("hadolint", DEPLOY / "Dockerfile")


def test_the_compose_file() -> None:
    path = DEPLOY / "compose" / "compose.yaml"
    passes("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.stem)
def test_a_kubernetes_object(path: Path) -> None:
    passes("kubernetes-validate", "--strict", path)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("hadolint",), "FORM python:3.13-slim\n"),
        (("check-jsonschema", "--builtin-schema", "vendor.compose-spec"), "services: 3\n"),
        (("kubernetes-validate", "--strict"), "apiVersion: v1\nkind: Service\nspec: {prots: []}\n"),
    ],
)
def test_the_validators_see_mistakes(tmp_path: Path, command: tuple[str, ...], text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    assert run(*command, path).returncode != 0


NGINX = """
error_log stderr;
pid {folder}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def test_the_proxy_file(tmp_path: Path) -> None:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("!!!! no nginx on the PATH: the proxy's file was not read")
    site = (DEPLOY / "compose" / "nginx.conf").read_text()
    # ``resolve`` came with nginx 1.27.3; the name and the port are those of compose.
    for theirs, ours in (
        (" resolve", ""),
        ("gateway:", "127.0.0.1:"),
        ("listen ", "listen 127.0.0.1:"),
    ):
        assert theirs in site
        site = site.replace(theirs, ours)
    file = tmp_path / "nginx.conf"
    for text, is_right in (
        (site, True),
        (site.replace("proxy_buffering", "proxy_bufering"), False),
    ):
        file.write_text(NGINX.format(folder=tmp_path, site=text))
        done = subprocess.run(
            [nginx, "-t", "-c", file], capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) == is_right, done.stderr


# -- against the project


def test_what_the_container_file_copies_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE)
    copied = [word for line in lines for word in line.split()]
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    for name in {*copied} - {"./"}:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in kept, name


def test_its_extras_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"'\.\[(.+)\]'", (DEPLOY / "Dockerfile").read_text())
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}


def test_the_namespaced_objects_are_listed() -> None:
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert {*listed} == {path.name for path in OBJECTS} - {"secret.example.yaml"}


def config_of(text: str, folder: Path) -> Config:
    path = folder / "dragoman.toml"
    path.write_text(text)
    return load_config(path, environ=SECRETS)


def composed(folder: Path) -> Config:
    return config_of((DEPLOY / "compose" / "dragoman.toml").read_text(), folder)


def in_kubernetes(folder: Path) -> Config:
    text = (DEPLOY / "kubernetes" / "config.yaml").read_text()
    return config_of(yaml.safe_load(text)["data"]["dragoman.toml"], folder)


@pytest.mark.parametrize("of", [composed, in_kubernetes])
def test_the_configuration_loads(of: Any, tmp_path: Path) -> None:
    config = of(tmp_path)
    assert config.models
    assert config.server.host == "0.0.0.0"
    assert config.redis is not None
    assert config.store.url is not None


def test_every_secret_is_given() -> None:
    text = (DEPLOY / "kubernetes" / "secret.example.yaml").read_text()
    assert {*yaml.safe_load(text)["stringData"]} == {*SECRETS}
    assert {*COMPOSE["services"]["gateway"]["environment"]} == {*SECRETS}
    wanted = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose" / "compose.yaml").read_text()))
    example = (DEPLOY / "compose" / "env.example").read_text()
    assert wanted == set(re.findall(r"^(\w+)=$", example, re.MULTILINE))


def test_a_stop_waits_for_streams(tmp_path: Path) -> None:
    pod = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())["spec"][
        "template"
    ]
    (container,) = pod["spec"]["containers"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = before + in_kubernetes(tmp_path).server.shutdown_timeout_s
    assert pod["spec"]["terminationGracePeriodSeconds"] > drain
    grace = int(COMPOSE["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace > composed(tmp_path).server.shutdown_timeout_s


def test_probes_ask_for_what_is_served() -> None:
    pod = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())["spec"][
        "template"
    ]
    (container,) = pod["spec"]["containers"]
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")
    }
    assert paths == {"liveness": "/healthz", "readiness": "/readyz"}


def test_it_scales_by_a_metric_that_is_there() -> None:
    text = (DEPLOY / "kubernetes" / "autoscaler.yaml").read_text()
    pods = [m["pods"] for m in yaml.safe_load(text)["spec"]["metrics"] if m["type"] == "Pods"]
    assert pods[0]["metric"]["name"] in FAMILIES


def test_metrics_are_scraped_where_they_are_served(tmp_path: Path) -> None:
    scrape = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())["scrape_configs"]
    assert scrape[0]["dns_sd_configs"][0]["port"] == composed(tmp_path).metrics.port
    pod = yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())["spec"][
        "template"
    ]
    port = in_kubernetes(tmp_path).metrics.port
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    (container,) = pod["spec"]["containers"]
    assert port in {each["containerPort"] for each in container["ports"]}
