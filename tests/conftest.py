"""What every test may lean on: one thread a process, no network of its own making, the shared photos."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist fills the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import pytest
from tiny_models import make_tiny_pipeline
from tiny_outputs import write_tiny_outputs

from d3s_utils.pipelines import load_pipeline
from d3s_utils.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos, which is not part of the repository; a test that needs it is skipped without it."""
    folder = Path(os.environ.get("D3S_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real photos at {folder}; set D3S_SHARED_DATA to a folder that has them")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A diffusers folder with random weights."""
    return make_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture(scope="module")
def pipeline(folder):
    """The pipeline of `folder`, on the CPU."""
    return load_pipeline(folder, device="cpu")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of two classes on two backgrounds, with notebook 01's outputs where they say."""
    settings = load_settings(
        "mini",
        output_dir=tmp_path_factory.mktemp("outputs"),
        classes=["n03854065", "n02129165"],
        backgrounds=["snow", "grass"],
        guides_per_class_train=2,
        guides_per_class_val=1,
        templates_per_background=2,
    )
    write_tiny_outputs(settings, until="01_compositing")
    return settings
