"""The container files and the cluster manifests, checked without a container engine and without a cluster."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.commands.main import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
SCRIPTS = sorted([*(ROOT / "deploy").rglob("*.sh"), *(ROOT / "deploy").rglob("*.sbatch")])
KUBERNETES = ("1.31", "1.37")  # podFailurePolicy is stable since 1.31; 1.37 is the validator's latest


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def lint(program: str, *arguments: object) -> None:
    """Run a linter of the extra ``deploy``; its output is the message of a failure."""
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{program} is not installed. Run: pip install -e '.[deploy]'")
    done = subprocess.run([found, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dockerfile_is_linted():
    lint("hadolint", "Dockerfile")


def test_scripts_are_linted():
    lint("shellcheck", *SCRIPTS)


def test_yaml_is_linted():
    lint("yamllint", "--strict", "compose.yaml", "deploy", ".yamllint.yaml")


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_match_the_schema_of_kubernetes(version):
    lint("kubernetes-validate", "--strict", "--kubernetes-version", version, *MANIFESTS)


@pytest.mark.skipif(tomllib is None, reason="tomllib needs Python 3.11")
def test_constraints_pin_one_version_of_each_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r'ARG EXTRAS="(.*)"', (ROOT / "Dockerfile").read_text())[1].split()
    constraints = (ROOT / "deploy/constraints.txt").read_text()
    pinned = dict(line.split("==") for line in constraints.splitlines() if not line.startswith("#"))
    command = re.search(r"uv pip compile.*", constraints)[0]
    assert all(f"--extra {extra}" in command for extra in extras)
    optional = [line for extra in extras for line in project["optional-dependencies"][extra]]
    for requirement in map(Requirement, [*project["dependencies"], *optional]):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is missing: run the command at the top of deploy/constraints.txt"
        assert version in requirement.specifier, f"{requirement} is pinned to {version}: run that command again"


@pytest.mark.skipif(tomllib is None, reason="tomllib needs Python 3.11")
def test_manifests_name_the_image_of_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    files = [*MANIFESTS, ROOT / "compose.yaml", ROOT / "docs/clusters.md"]
    images = {image for path in files for image in re.findall(r"momentum-rnn:[\d.]+\d", path.read_text())}
    assert images == {f"momentum-rnn:{version}"}


@pytest.mark.parametrize("name", ["single_node", "multi_node"])
def test_fit_accepts_the_options_of_the_job(name, capsys):
    job = documents(ROOT / f"deploy/kubernetes/{name}.yaml")[-1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"][0] == "start-or-resume"
    with pytest.raises(SystemExit) as ended:
        main(["fit", *container["args"], "--print_config"])
    assert ended.value.code == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert int(trainer["devices"]) == container["resources"]["limits"]["nvidia.com/gpu"]


def test_number_of_nodes_is_consistent():
    service, job = documents(ROOT / "deploy/kubernetes/multi_node.yaml")
    template = job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    launch = shlex.split(next(variable["value"] for variable in container["env"] if variable["name"] == "LAUNCH"))
    given = dict(zip(launch[1::2], launch[2::2], strict=True))
    options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    nodes, port = job["spec"]["completions"], service["spec"]["ports"][0]["port"]
    assert job["spec"]["parallelism"] == nodes
    assert given["--nnodes"] == options["--trainer.num_nodes"] == str(nodes)
    assert given["--nproc-per-node"] == options["--trainer.devices"]
    assert given["--master-port"] == str(container["ports"][0]["containerPort"]) == str(port)
    assert given["--master-addr"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert template["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}


def test_ports_are_published_to_the_host_only():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "deploy/start_or_resume.sh")
    environment = {**os.environ, "LAUNCH": "echo launched with options"}
    return subprocess.run([script, *arguments], env=environment, capture_output=True, text=True)


def test_first_start_trains():
    done = start("runs/one", "--config", "a name.yaml")
    assert done.stdout.splitlines()[-1] == "launched with options -m app fit --run_dir runs/one --config a name.yaml"


def test_next_start_resumes():
    Path("runs/one/checkpoints").mkdir(parents=True)
    Path("runs/one/checkpoints/last.ckpt").touch()
    done = start("runs/one", "--config", "a name.yaml")
    assert done.stdout.splitlines()[-1] == "launched with options -m app fit --resume runs/one"


def test_start_without_run_directory_is_an_error():
    done = start()
    assert done.returncode == 2
    assert "RUN_DIR" in done.stderr
