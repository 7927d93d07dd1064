"""The card of the bundled generator: its numbers beside what was wanted of them, in Hugging Face's format."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from d3s_utils.atomic_files import write_json, write_text
from d3s_utils.metrics import Estimate

TEMPLATE = Path(__file__).parent / "models" / "mini_diffusion_card.md"
HISTORY = "training.json"


@dataclass(frozen=True)
class Target:
    """A number that the generator is judged by.

    Attributes:
        metric: Its name in ``metrics.json``.
        meaning: What it says, for a table.
        at_least, at_most: What is wanted of it; both None where nothing is.
    """

    metric: str
    meaning: str
    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool | None:
        """Return whether `value` is what is wanted, None where nothing is."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


TARGETS = (
    Target("photos/foreground_agreement", "held-out photos: the judge finds the object"),
    Target("decoded/foreground_agreement", "the same photos after the autoencoder"),
    Target("text_to_image/foreground_agreement", "dreamt from the class alone: the judge finds the object"),
    Target("text_to_image/foreground_fidelity", "the same over photos", at_least=0.85),
    Target("text_to_image/auxiliary_fidelity", "the same, by a sister of the generator's teacher"),
    Target("text_to_image/family_gap", "how much more the sister likes them, beside photos"),
    Target("name_alone/foreground_agreement", "dreamt from the name alone, no gloss"),
    Target("paraphrased/foreground_agreement", "dreamt from a paraphrased gloss"),
    Target("image_to_image/foreground_agreement", "dreamt from guides as `mini` does: the judge finds the object"),
    Target("image_to_image/foreground_fidelity", "the same over photos of these classes", at_least=0.80),
    Target("guides/foreground_agreement", "the guides themselves, before the model touches them"),
    Target("scenes/background_agreement", "scenes dreamt alone: the judge names the background", at_least=0.80),
    Target("image_to_image/background_agreement", "dreamt from guides: the judge names the background", at_least=0.80),
    Target("image_to_image/auxiliary_background_agreement", "the same, by a head on a sister's features"),
    Target("text_to_image/kernel_distance", "kernel distance to photos, dreamt from the class alone"),
    Target("decoded/kernel_distance", "the same of photos after the autoencoder"),
    Target("guides/kernel_distance", "kernel distance to photos, raw composites"),
    Target("image_to_image/kernel_distance", "the same, dreamt from these composites"),
    Target("photo_crops/kernel_distance", "the same, crops of as many real photos"),
    Target("image_to_image/kernel_distance_ratio", "dreamt over raw", at_most=0.5),
    Target("image_to_image/kernel_distance_ratio_all_pairs", "the same, were pictures of one object compared"),
    Target("photo_crops/kernel_distance_ratio_all_pairs", "the same, of these crops"),
    Target("text_to_image/diversity", "variety within a class, over that of photos", at_least=0.85),
    Target("copies/near_share", "dreamt pictures nearer to a training photo than 99 % of held-out photos are"),
    Target("reconstruction_error", "mean absolute error of the autoencoder, grey levels"),
    Target("speed/passes", "forward passes of EfficientNet-Lite0 in the time of one dreamt picture"),
)


def target_table(metrics: Mapping[str, Estimate]) -> pd.DataFrame:
    """Return those of `TARGETS` that were measured: `metric`, `meaning`, `value`, `low`, `high`, `n`, `wanted`, `met`.

    `wanted` is text (``at least 0.85``, or nothing), `met` True, False or None.
    """
    rows = []
    for target in TARGETS:
        if target.metric not in metrics:
            continue
        limit = target.at_least if target.at_least is not None else target.at_most
        wanted = "" if limit is None else f"at {'least' if target.at_least is not None else 'most'} {limit:g}"
        estimate = metrics[target.metric]
        rows.append({
            "metric": target.metric, "meaning": target.meaning, **vars(estimate), "wanted": wanted,
            "met": target.met_by(estimate.value),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["metric", "meaning", "value", "low", "high", "n", "wanted", "met"])


def read_history(folder: Path) -> list[str]:
    """Return how the model in `folder` was trained, a sentence a turn; nothing where that is not written down."""
    return json.loads((folder / HISTORY).read_text(encoding="utf-8")) if (folder / HISTORY).is_file() else []


def write_model_card(
    folder: Path,
    *,
    metrics: Mapping[str, Estimate],
    history: Sequence[str],
    classes: Sequence[str],
    sheets: Mapping[str, str],
    settings: Mapping[str, object],
) -> Path:
    """Write ``README.md`` and ``training.json`` into a model's folder; return the card's path.

    Args:
        metrics: What was measured, by name.
        history: A sentence for each turn of its training, see `read_history`.
        classes: Names of the classes it knows.
        sheets: File in `folder` -> what the picture shows.
        settings: What the numbers were measured with.

    Raises:
        ValueError: If a sheet is not there.
    """
    missing = [name for name in sheets if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"sheets must be files in {folder.name}, which lacks {', '.join(missing)}")
    table = target_table(metrics)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    data = ModelCardData(
        license="mit",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["stable-diffusion", "tiny", "d3s", "research"],
        model_name="mini diffusion",
        eval_results=[
            EvalResult(
                task_type="text-to-image", dataset_type="tiny-imagenet", dataset_name="Tiny-ImageNet, held-out photos",
                metric_type=row.metric, metric_name=row.meaning, metric_value=round(row.value, 4),
            )
            for row in table.itertuples()
        ],
    )  # fmt: skip
    card = ModelCard.from_template(
        data, template_path=str(TEMPLATE), rows=table.to_dict("records"), history=history, classes=classes,
        sheets=sheets, settings=settings, size=size,
    )  # fmt: skip
    write_json(folder / HISTORY, list(history))
    write_text(folder / "README.md", str(card).rstrip("\n") + "\n")
    return folder / "README.md"
