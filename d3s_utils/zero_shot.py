"""Whether a picture shows what its labels say, by CLIP, which was never trained on either set of labels."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPProcessor

from d3s_utils.classifiers import Looker, Picture, look, sha256_of_tensors
from d3s_utils.devices import choose_device
from d3s_utils.pipelines import quiet_libraries
from d3s_utils.taxonomy import BACKGROUNDS, check_background, classes_of, imagenet_class, scene_prompt


class ZeroShotError(ValueError):
    """A CLIP that cannot be had or does not load; the message names the local alternative."""


@dataclass(frozen=True)
class Clip:
    """A CLIP, ready to use.

    Attributes:
        name: The hub id (with its revision) or the folder's name.
        model: In evaluation mode, float32.
        processor: Its tokenizer and its preprocessing of images.
        sha256: Of all the model's tensors.
        device: Where the model lies.
    """

    name: str
    model: CLIPModel = field(repr=False)
    processor: CLIPProcessor = field(repr=False)
    sha256: str
    device: str

    def transform(self, image: Image.Image) -> torch.Tensor:
        """Return an RGB image as the model wants it, float32 (3, side, side); the middle where it is not square."""
        return self.processor.image_processor(images=image, return_tensors="pt")["pixel_values"][0]

    @property
    def logit_scale(self) -> float:
        """What a cosine similarity is multiplied by before the softmax, as the model learnt it."""
        return float(self.model.logit_scale.detach().exp())

    @torch.inference_mode()
    def image_embeddings(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the embedding of each transformed picture, of length 1, float32 (n, width)."""
        pooled = self.model.vision_model(pixel_values=batch.to(self.device)).pooler_output
        return normalize(self.model.visual_projection(pooled).float(), dim=1)

    @torch.inference_mode()
    def text_embeddings(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return the embedding of each prompt, of length 1, float32 (k, width).

        Raises:
            ValueError: If a prompt is longer than the model reads: it would never see its end.
        """
        limit = self.model.config.text_config.max_position_embeddings
        found = []
        for prompt in prompts:  # one at a time: padding would leave its trace in the last digits
            tokens = self.processor.tokenizer([prompt], return_tensors="pt").to(self.device)
            if tokens["input_ids"].shape[1] > limit:
                raise ValueError(
                    f"prompts must have at most {limit} tokens, got {tokens['input_ids'].shape[1]}: {prompt!r}"
                )
            found.append(self.model.text_projection(self.model.text_model(**tokens).pooler_output).float())
        return normalize(torch.cat(found), dim=1)


@dataclass(frozen=True)
class ZeroShot:
    """A CLIP that was told between which objects and backgrounds to choose.

    Attributes:
        clip: The model.
        foregrounds: Names of the candidate classes, k of them. Two classes of one name are one candidate.
        embeddings: Of the prompts: k objects, then the ten backgrounds, shape (k + 10, width).
    """

    clip: Clip
    foregrounds: tuple[str, ...]
    embeddings: torch.Tensor = field(repr=False)

    @property
    def transform(self) -> Callable[[Image.Image], torch.Tensor]:
        """The preprocessing: RGB image -> float tensor (3, side, side)."""
        return self.clip.transform

    @property
    def looker(self) -> Looker:
        """Answers with the cosine similarity to each prompt; put it into `classifiers.look` beside other models."""
        return Looker(self.transform, self.scores_of_batch, len(self.embeddings))

    def scores_of_batch(self, batch: torch.Tensor) -> np.ndarray:
        """Return the cosine similarity of each transformed picture to each prompt, float32 (n, k + 10)."""
        return (self.clip.image_embeddings(batch) @ self.embeddings.T).cpu().numpy()


def load_clip(name: str | Path, *, revision: str | None = None, device: str = "cpu") -> Clip:
    """Return the CLIP called `name`, on `device`.

    Args:
        name: A local folder that `CLIPModel.save_pretrained` and `CLIPProcessor.save_pretrained` wrote, or a hub id
            such as ``openai/clip-vit-base-patch32``.
        revision: Branch, tag or commit on the hub.
        device: See `devices.choose_device`.

    Raises:
        ZeroShotError: If there is no such folder, it is no complete CLIP, or the hub cannot be reached.
        ValueError: If the device is unknown.
    """
    device = str(choose_device(device))
    folder = Path(name).expanduser()
    advice = "give a local folder that CLIPModel.save_pretrained and CLIPProcessor.save_pretrained wrote"
    if folder.exists():
        source, called = str(folder.resolve()), folder.resolve().name
    elif folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") != 1:
        raise ZeroShotError(
            f"name must be a folder or a hub id like openai/clip-vit-base-patch32, got {str(name)!r}, and there is no "
            f"such folder: {advice}"
        )
    else:
        source, called = str(name), f"{name}@{revision}" if revision else str(name)
    options = {"revision": revision or "main", "local_files_only": folder.exists()}
    try:
        with quiet_libraries():
            model, report = CLIPModel.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, **options
            )  # fmt: skip
            processor = CLIPProcessor.from_pretrained(source, **options)
    except Exception as error:  # transformers and the hub raise a dozen kinds; each means that it is not here
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
        raise ZeroShotError(
            f"name: the CLIP {str(name)!r} is neither in a local folder that loads nor could it be fetched from the "
            f"Hugging Face hub; {advice}. The reason was {type(error).__name__}: {reason}"
        ) from error
    wrong = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if wrong:
        raise ZeroShotError(f"name: {str(name)!r} lacks {len(wrong)} of CLIP's tensors, such as {wrong[0]}; {advice}")
    return Clip(called, model.eval().to(device), processor, sha256_of_tensors(model), device)


def zero_shot(clip: Clip, classes: Iterable[str | int]) -> ZeroShot:
    """Return `clip` with the embeddings of its prompts: ``a photo of a {class name}`` and `taxonomy.scene_prompt`.

    Args:
        clip: From `load_clip`.
        classes: The candidates, as `taxonomy.imagenet_class` knows them; repeats count once. `range(1000)` is all.

    Raises:
        ValueError: If there is no class, or an unknown one.

    Source: Radford et al. 2021, arXiv:2103.00020.
    """
    foregrounds = tuple(dict.fromkeys(found.name for found in classes_of(classes)))
    if not foregrounds:
        raise ValueError("classes must name at least one class, got none")
    prompts = [f"a photo of a {name}" for name in foregrounds] + [scene_prompt(name) for name in BACKGROUNDS]
    return ZeroShot(clip, foregrounds, clip.text_embeddings(prompts))


def opinions(chooser: ZeroShot, scores: np.ndarray, table: pd.DataFrame) -> pd.DataFrame:
    """Return what CLIP thinks of the labels of n pictures.

    Args:
        chooser: From `zero_shot`.
        scores: Of `ZeroShot.scores_of_batch` for all pictures, shape (n, k + 10); NaN where one cannot be read.
        table: Has the labels `imagenet_index` and `background` of each, in the same order.

    Returns:
        A row a picture, with the index of `table`:
            `clip_foreground_probability`: of the labelled class among the candidates, by the model's own scale.
            `clip_foreground_prediction`: name of the class it would say.
            `clip_foreground_similarity`: cosine between the picture and the prompt of its labelled class.
            `clip_background_probability`, `clip_background_prediction`, `clip_background_similarity`: likewise among
                the ten.
        NaN and an empty string where the picture could not be read.

    Raises:
        ValueError: If shapes do not fit, or a labelled class is no candidate.
    """
    width = len(chooser.foregrounds) + len(BACKGROUNDS)
    if np.shape(scores) != (len(table), width):
        raise ValueError(f"scores must have shape {(len(table), width)}, got {np.shape(scores)}")
    scores = np.asarray(scores, np.float64)
    names = [imagenet_class(int(index)).name for index in table["imagenet_index"]]
    missing = sorted(set(names) - set(chooser.foregrounds))
    if missing:
        raise ValueError(f"every labelled class must be a candidate; {len(missing)} are not, such as {missing[0]!r}")
    backgrounds = [check_background(name) for name in table["background"]]
    split, scale = len(chooser.foregrounds), chooser.clip.logit_scale
    columns = _columns("foreground", scores[:, :split], names, chooser.foregrounds, scale)
    columns |= _columns("background", scores[:, split:], backgrounds, tuple(BACKGROUNDS), scale)
    return pd.DataFrame(columns, index=table.index)


def clip_scores(
    clip: Clip,
    pictures: Sequence[Picture],
    table: pd.DataFrame,
    *,
    all_classes: bool = False,
    batch_size: int = 32,
    description: str = "asking CLIP",
) -> pd.DataFrame:
    """Return what CLIP thinks of the labels of pictures, read in a loop of their own; progress goes to stdout.

    Args:
        clip: From `load_clip`.
        pictures: Files, uint8 (h, w, 3) arrays or images, n of them.
        table: See `opinions`; n rows.
        all_classes: Choose among all 1000 classes, not among those in `table`. A probability among few is larger.

    Returns:
        See `opinions`.
    """
    if len(pictures) != len(table):
        raise ValueError(f"table must have a row for each of {len(pictures)} pictures, got {len(table)}")
    classes = range(1000) if all_classes else sorted({int(index) for index in table["imagenet_index"]})
    chooser = zero_shot(clip, classes)
    answers, _ = look(
        pictures, [chooser.looker], batch_size=batch_size, skip_unreadable=True, description=description
    )  # fmt: skip
    return opinions(chooser, answers[0], table)


def _columns(part: str, similarities: np.ndarray, labels: list[str], names: tuple[str, ...], scale: float) -> dict:
    places = {name: place for place, name in enumerate(names)}
    rows, own = np.arange(len(labels)), np.array([places[label] for label in labels], dtype=int)
    weights = np.exp(scale * (similarities - similarities.max(1, keepdims=True)))
    readable = ~np.isnan(similarities).any(1)
    said = [names[place] if known else "" for place, known in zip(similarities.argmax(1), readable, strict=True)]
    return {
        f"clip_{part}_probability": weights[rows, own] / weights.sum(1),
        f"clip_{part}_prediction": np.array(said, dtype=str),
        f"clip_{part}_similarity": similarities[rows, own],
    }
