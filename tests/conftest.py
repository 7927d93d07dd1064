"""What every test may lean on: one thread a process, no network of its own making, the shared photos."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist fills the cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import pytest

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
