"""pyproject.toml, requirements.lock and environment.yml describe the same environment."""

import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILES = ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile", "Snakefile", ".ci/run", "README.md")


@pytest.fixture(scope="module")
def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins(root) -> dict[str, list[Requirement]]:
    found = {}
    for line in (root / "requirements.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_the_lock_pins_and_nothing_else(pins):
    for requirements in pins.values():
        for requirement in requirements:
            assert re.fullmatch(r"==[\w.+]+", str(requirement.specifier)), str(requirement)
            assert requirement.url is None


def test_every_direct_dependency_is_pinned_within_its_bounds(project, pins):
    direct = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    assert direct
    for line in direct:
        wanted = Requirement(line)
        assert str(wanted.specifier).startswith(">="), f"{line}: state a lower bound"
        name = canonicalize_name(wanted.name)
        assert name in pins, f"{name} is not in requirements.lock: run `make lock`"
        for pinned in pins[name]:
            version = str(pinned.specifier).removeprefix("==")
            assert wanted.specifier.contains(version), f"{line}, but the lock has {pinned}"


def test_dependencies_are_sorted_and_named_once(project):
    for lines in (project["project"]["dependencies"], project["dependency-groups"]["dev"]):
        names = [canonicalize_name(Requirement(line).name) for line in lines]
        assert names == sorted(set(names))


def test_conda_brings_python_and_the_lock_brings_the_rest(root, project):
    dependencies = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    assert dependencies == [f"python{project['project']['requires-python']}", "pip", {"pip": ["-r requirements.lock"]}]


def test_the_installed_environment_is_the_locked_one(project):
    from importlib import metadata

    for line in project["project"]["dependencies"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(metadata.version(requirement.name))


def test_no_machine_path_and_no_registry_in_any_file(root):
    for name in FILES:
        text = (root / name).read_text()
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users|opt)/", text), name
        assert not re.search(r"(?<!no-emit-)index-url|find-links|https?://(pypi|files\.pythonhosted)", text), name


def test_ci_calls_make_test(root):
    assert (root / ".ci/run").read_text().rstrip().endswith("exec make test")


@pytest.mark.parametrize("target", ["run", "dry-run", "report"])
def test_make_hands_over_values_as_they_were_typed(root, target):
    given = ["PROFILE=gpu", "CORES=4", "PHOTOS=my photos/x", "SET=classes=[king penguin,lion] seed=3", "OUT=it's mine"]
    # Replace the interpreter by printf, and the environment by one that is there.
    command = ["make", "-C", str(root), target, "STAMP=requirements.lock", "JOB=printf '<%s>'", *given]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for part in (target, "--profile=gpu", "--cores=4", "--photos=my photos/x", "--output-dir=it's mine",
                 "--set=classes=[king penguin,lion] seed=3", "--templates=", "--snakemake-flags="):  # fmt: skip
        assert f"<{part}>" in printed
