"""What a notebook found, as numbers with intervals, and what they were found with."""

import json
import math
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from d3s_utils.atomic_files import write_json

NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*/){0,2}[a-z][a-z0-9]*(_[a-z0-9]+)*")
PACKAGES = (  # those whose version can change a number
    "diffusers", "numpy", "onnxruntime", "opencv-python-headless", "pandas", "pillow", "pyarrow", "scikit-learn",
    "scipy", "timm", "tokenizers", "torch", "torchvision", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A number and how sure we are of it.

    Attributes:
        value: The estimate.
        low: Lower end of its interval, at most `value`; NaN where too few observations are there to give one.
        high: Upper end, at least `value`; NaN where `low` is.
        n: How many independent observations it rests on, at least 1.

    Raises:
        ValueError: If the value is not finite, only one end is NaN or an end is infinite, the value lies outside its
            interval, or `n` is not a positive integer.
    """

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self):
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            number = math.nan if number is None and name != "value" else number
            wrong = isinstance(number, bool) or not isinstance(number, Real) or math.isinf(number)
            if wrong or (math.isnan(number) and name == "value"):
                raise ValueError(f"{name} must be a finite number, got {number!r}")
            object.__setattr__(self, name, float(number))
        if math.isnan(self.low) != math.isnan(self.high):
            raise ValueError(f"low and high must both be numbers or both be missing, got {self.low} and {self.high}")
        if isinstance(self.n, bool) or not isinstance(self.n, Integral) or self.n < 1:
            raise ValueError(f"n must be a positive integer, got {self.n!r}")
        object.__setattr__(self, "n", int(self.n))
        slack = 1e-9 * max(1.0, abs(self.value))  # an interval's end and its value may be computed by different sums
        if self.has_interval and not self.low - slack <= self.value <= self.high + slack:
            raise ValueError(f"value must lie in [low, high] = [{self.low}, {self.high}], got {self.value}")

    @property
    def has_interval(self) -> bool:
        """Whether enough was observed to say how sure the value is."""
        return not math.isnan(self.low)

    def words(self, unit: str = "", *, scale: float = 1.0, digits: int = 1) -> str:
        """Return the value with its interval as a sentence needs it, such as ``5.5 points [-6.1, 18.3]``.

        Args:
            unit: ``%`` and ``points`` (percentage points) are of shares and multiply by 100.
            scale: What else to multiply by.
            digits: Behind the decimal point.
        """
        scale *= 100 if unit in ("%", "points") else 1
        value, low, high = (f"{scale * part:z.{digits}f}" for part in (self.value, self.low, self.high))
        ends = f"[{low}, {high}]" if self.has_interval else f"(too few for an interval: n = {self.n})"
        return " ".join(part for part in (value, unit, ends) if part)

    def record(self) -> dict[str, Any]:
        """Return the numbers for strict JSON: ends that are not there are None."""
        return {name: None if part != part else part for name, part in asdict(self).items()}


def write_metrics(
    folder: str | Path,
    *,
    notebook: str,
    profile: str,
    seed: int,
    metrics: Mapping[str, Estimate],
    question: str,
    answer: str,
    headline: tuple[str, ...] | list[str] = (),
    plain: str = "",
    chart: str = "",
    weights: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Path:
    """Write a notebook's ``metrics.json`` into `folder`, whole or not at all.

    Args:
        folder: The notebook's output folder.
        notebook: Its stem, such as ``03_validation``.
        profile: The profile's name.
        seed: The run's seed.
        metrics: Estimates by name: snake_case, after at most two of method, model, background, each with a slash.
        question: The notebook's question, one sentence.
        answer: Its answer, one sentence with the number and its uncertainty.
        headline: The names of the few metrics to show first; all of them when empty.
        plain: The answer for somebody in a hurry: one sentence with at most two numbers.
        chart: Name of the figure in `folder` that shows it.
        weights: sha256 of each set of weights that was used, by name.
        data: What was read: counts, sources, hashes.
        settings: The settings that the notebook ran with.
        device: Where it ran, such as ``cpu`` or ``cuda``.

    Returns:
        The path of the file.

    Raises:
        ValueError: If a name, a value or a headline does not fit the above; nothing is written.
    """
    for name, estimate in metrics.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"metrics: a name must be snake_case with at most two `prefix/` before it, got {name!r}")
        if not isinstance(estimate, Estimate):
            raise ValueError(f"metrics[{name!r}] must be an Estimate, got {estimate!r}")
    if not metrics:
        raise ValueError("metrics must hold at least one estimate, got none")
    for name in headline:
        if name not in metrics:
            raise ValueError(f"headline must name metrics, which are {', '.join(metrics)}; got {name!r}")
    for argument, text in (("question", question), ("answer", answer)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{argument} must be a sentence, got {text!r}")
    if chart and not (Path(folder) / chart).is_file():
        raise ValueError(f"chart must name a figure in {Path(folder).name}, which has no {chart!r}")
    path = Path(folder) / "metrics.json"
    record = {
        "notebook": notebook,
        "profile": profile,
        "seed": int(seed),
        "question": question.strip(),
        "answer": answer.strip(),
        "plain": plain.strip(),
        "chart": chart,
        "headline": list(headline) or list(metrics),
        "provenance": provenance(weights=weights, data=data, settings=settings, device=device),
        "metrics": {name: estimate.record() for name, estimate in metrics.items()},
    }
    write_json(path, record)
    return path


def read_metrics(path: str | Path) -> dict[str, Any]:
    """Read a ``metrics.json``; its ``metrics`` come as `Estimate`s.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is not such a file: not JSON, a key missing, a number that is none.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        missing = {"notebook", "profile", "seed", "provenance", "metrics"} - record.keys()
        if missing:
            raise ValueError(f"the keys {', '.join(sorted(missing))} are missing")
        return {**record, "metrics": {name: Estimate(**fields) for name, fields in record["metrics"].items()}}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be a metrics file of this project: {error}") from error


def provenance(
    *,
    weights: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Return what a number was made with: code, packages, weights, data, settings and device."""
    return {
        "code_revision": code_revision(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": package_versions(),
        "weights": dict(weights or {}),
        "data": dict(data or {}),
        "settings": dict(settings or {}),
        "device": str(device),
    }


@cache
def code_revision() -> str:
    """Return the checkout's git commit, with ``+changes`` if tracked files differ from it, or ``unknown``."""
    root = Path(__file__).resolve().parents[1]
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@cache
def package_versions() -> dict[str, str]:
    """Return the installed version of each of `PACKAGES` that there is."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _refuse_constant(name: str):
    raise ValueError(f"strict JSON has no {name}")
