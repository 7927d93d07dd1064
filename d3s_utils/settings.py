"""Every setting of a run in one validated place: a profile's file, and what the caller changes in it."""

import difflib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from d3s_utils.finetuning_options import KERNEL_METHODS, FinetuningOptions
from d3s_utils.taxonomy import (
    BACKGROUNDS,
    IN9,
    SPLITS,
    ImageNetClass,
    check_background,
    imagenet_class,
    imagenet_classes,
)

PROFILES = Path(__file__).parent / "profiles"
RECOMMENDED = Path(__file__).parent / "models" / "mini_diffusion" / "recommended.json"  # written by notebook 00
BROUGHT_ALONG = ("strength", "guidance_scale", "dream_guidance_scale", "dream_eta", "foreground_candidates")
FILTER_NAMES = (  # of notebook 03
    "foreground", "background", "unsafe", "clip_foreground", "clip_background", "sharpness", "exposure", "duplicate",
)  # fmt: skip

LEARNED_METHODS = ("none", "adversarial", "wasserstein", "mine", "club", "hsic", "distance_covariance")
FEATURE_METHODS = (*LEARNED_METHODS, "inlp", "leace")  # of notebook 05
PROBE_KINDS = ("linear", "mlp", "nearest", "boosted")

# What each notebook reads, beside `profile`, `output_dir` and `seed`; its parameters cell has the same names.
NOTEBOOK_SETTINGS: dict[str, tuple[str, ...]] = {
    "01_compositing": (
        "image_size", "classes", "backgrounds", "guides_per_class_train", "guides_per_class_val",
        "templates_per_background", "foreground_scale", "own_ground_splits", "photos", "templates", "mask_mode",
        "foreground_candidates", "generator", "generator_revision", "dream_guidance_scale", "dream_steps",
        "dream_eta", "batch_size", "device",
    ),
    "02_diffusion_generation": (
        "generator", "generator_revision", "precision", "strength", "guidance_scale", "steps", "eta",
        "batch_size", "other_run", "device",
    ),
    "03_validation": (
        "foreground_judges", "foreground_witnesses", "background_judges", "background_witnesses", "clip_model",
        "lpips_backbone", "real_photos", "real_photos_limit", "foreground_threshold", "background_threshold",
        "unsafe_threshold", "clip_threshold", "outlier_threshold", "duplicate_bits", "filters", "answers",
        "vote_rule", "votes_needed", "simulated_workers", "pictures_for_people", "wanted_precision",
        "device",
    ),
    "04_classifier_evaluation": (
        "classifiers", "classifier_batch_size", "classifier_precision", "compile_classifiers", "real_photos",
        "real_photos_limit", "image_sets", "focus_pictures", "bootstrap_samples", "device",
    ),
    "05_invariant_features": (
        "feature_backbone", "feature_components", "feature_methods", "foreground_width", "background_width",
        "penalty_weight", "penalty_weights", "inlp_rounds", "leace_directions", "warmup_steps", "training_steps",
        "training_batch_size", "learning_rate", "critic_steps", "critic_width", "critic_learning_rate",
        "gradient_penalty", "feature_seeds", "probe_kinds", "fine_tune", "bootstrap_samples", "device",
    ),
    "06_spurious_correlation": (
        "spurious_method", "spurious_correlations", "spurious_seeds", "balanced_share",
        "saliency_pictures", "feature_backbone", "feature_components", "foreground_width", "background_width",
        "penalty_weight", "warmup_steps", "training_steps", "training_batch_size", "learning_rate", "critic_steps",
        "critic_width", "critic_learning_rate", "gradient_penalty", "real_photos", "real_photos_limit",
        "bootstrap_samples", "device",
    ),
    "07_backgrounds_challenge": (
        "classifiers", "classifier_batch_size", "classifier_precision", "in9_folder", "homes", "real_photos",
        "real_photos_limit", "challenge_pictures", "challenge_backgrounds", "device",
    ),
}  # fmt: skip


_PROBLEMS = {"tuple_type": "must be a list", "too_short": "must hold at least one entry"}


class SettingsError(ValueError):
    """A setting that does not exist or does not fit; the message names it, what is allowed and what came."""


def find_root() -> Path:
    """Return the project's root, the folder that holds `notebooks/` and `d3s_utils/`."""
    return Path(__file__).resolve().parents[1]


def _text_of_path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _place(value: Any) -> Any:
    """Make a local path absolute, seen from the project's root; leave a hub id as it is."""
    value = _text_of_path(value)
    if not isinstance(value, str) or not value:
        return value
    path = find_root() / Path(value).expanduser()
    return str(path) if path.exists() or value.startswith(("~", "./", "../")) else value


Place = Annotated[str, BeforeValidator(_place), Field(min_length=1)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
AnyNames = Annotated[tuple[str, ...], Field(strict=False)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveNumber = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]


class Settings(BaseModel):
    """The settings of one run, checked and frozen. `load_settings` makes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # The run
    profile: str = Field(description="name of the file in d3s_utils/profiles that the other settings come from")
    output_dir: Annotated[str, BeforeValidator(_text_of_path), Field(min_length=1)] = Field(
        default="outputs", description="folder that everything is written below; relative to the project's root"
    )
    seed: int = Field(default=0, ge=0, description="the only source of randomness, 0 or more")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="where models run; auto takes a GPU if there is one"
    )
    bootstrap_samples: int = Field(ge=100, description="resamples behind a bootstrap interval, at least 100")

    # 01 compositing
    image_size: int = Field(ge=64, multiple_of=8, description="pixels on a side, a multiple of 8, at least 64")
    classes: Names = Field(description="ImageNet synsets or names, or `all`")
    backgrounds: Names = Field(description=f"some of {', '.join(BACKGROUNDS)}")
    guides_per_class_train: Count = Field(description="foregrounds of a class in the training split, at least 1")
    guides_per_class_val: Count = Field(description="foregrounds of a class in the validation split, at least 1")
    templates_per_background: int = Field(ge=2, description="background templates, at least 2: half for each split")
    foreground_scale: float = Field(gt=0, le=1, description="side of the pasted foreground over the image's, in (0, 1]")
    own_ground_splits: Annotated[tuple[Literal[SPLITS], ...], Field(strict=False)] = Field(
        description=f"splits, of {', '.join(SPLITS)}, whose images get a twin on the object's own ground"
    )
    photos: Place | None = Field(description="folder, parquet file or hub id of foreground photos; null dreams them")
    templates: Place | None = Field(description="folder, parquet file or hub id of scenes; null dreams them")
    mask_mode: Literal["none", "auto", "alpha", "file", "grabcut", "ellipse"] = Field(
        description="where masks come from; auto uses alpha and mask files; none pastes the rectangle, as in D3S"
    )
    foreground_candidates: Count = Field(
        description="objects dreamt for each that is kept: the critic's favourites; 1 keeps all"
    )
    dream_guidance_scale: float = Field(ge=1, description="guidance when foregrounds and scenes are dreamt, at least 1")
    dream_steps: Count = Field(description="denoising steps when foregrounds and scenes are dreamt, at least 1")
    dream_eta: Share = Field(description="DDIM's noise in each step when foregrounds and scenes are dreamt, 0 to 1")

    # 02 diffusion generation
    generator: Place = Field(description="bundled, a local diffusers folder or a hub id")
    generator_revision: str | None = Field(description="git revision of a hub id; null takes the newest")
    strength: float = Field(
        gt=0, le=1, description="share of the noise schedule that a guide is sent through, in (0, 1]"
    )
    guidance_scale: float = Field(ge=1, description="classifier-free guidance; 1 is none")
    steps: Count = Field(description="denoising steps of the full schedule; strength x steps are run")
    eta: Share = Field(description="DDIM's noise in each step, 0 (none) to 1")
    batch_size: Count = Field(description="pictures that are dreamt at once, at least 1; no result depends on it")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        description="numbers the generator computes with; auto is float16 on a GPU, float32 on a CPU"
    )
    other_run: Literal["refuse", "set_aside"] = Field(
        description="what happens to pictures that earlier settings made: stop, or rename their folder and start anew"
    )

    # 03 validation
    foreground_judges: Names = Field(
        description="timm classifiers, or small_resnet, whose mean probability decides on the foreground"
    )
    foreground_witnesses: AnyNames = Field(
        description="likewise, whose votes are kept and decide only on classes that no judge knows"
    )
    background_judges: Names = Field(
        description="background heads (bundled ones, or folders), or small_resnet, that decide likewise"
    )
    background_witnesses: AnyNames = Field(description="likewise, whose votes are kept and decide nothing")
    clip_model: Place | None = Field(description="CLIP for zero-shot scores: hub id or local folder; null has none")
    lpips_backbone: Place | None = Field(description="AlexNet's weights file for LPIPS; null takes a named stand-in")
    foreground_threshold: Share = Field(description="judge's probability of the right superclass that keeps a picture")
    background_threshold: Share = Field(description="judge's probability of the right background that keeps a picture")
    unsafe_threshold: Share = Field(description="score of the not-safe-for-work check that rejects a picture")
    clip_threshold: Share = Field(description="CLIP's probability of the right class, and background, that is enough")
    outlier_threshold: PositiveNumber = Field(description="robust z score from which sharpness or exposure is odd")
    duplicate_bits: int = Field(ge=0, le=64, description="bits of the perceptual hash that near-duplicates differ in")
    filters: Annotated[tuple[Literal[FILTER_NAMES], ...], Field(strict=False, min_length=1)] = Field(
        description=f"those that reject a picture, some of {', '.join(FILTER_NAMES)}"
    )
    answers: Place | None = Field(description="folder of people's answers; null simulates them")
    vote_rule: Literal["unanimous", "majority", "dawid_skene"] = Field(description="how votes become a verdict")
    votes_needed: Count = Field(description="answers that a question needs before it is decided (D3S: 5)")
    simulated_workers: int = Field(ge=0, description="workers that stand in for people; 0 for none")
    pictures_for_people: Count = Field(description="pictures that people are asked about, even over class x background")
    wanted_precision: Share = Field(description="precision for which thresholds are recommended")

    # 04 classifier evaluation
    classifiers: Names = Field(description="zoo files (paper, bundled, a .yaml), their entries, timm names or folders")
    classifier_batch_size: Count = Field(description="pictures that classifiers are shown at once, at least 1")
    classifier_precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        description="numbers that classifiers compute with; auto is float16 on a GPU, float32 on a CPU"
    )
    compile_classifiers: bool = Field(description="compile classifiers first, which pays for many pictures only")
    real_photos: Place | None = Field(description="folder or parquet file of real photos, to check the classifiers on")
    real_photos_limit: Count = Field(description="real photos of each set that are looked at, at least 1")
    image_sets: AnyNames = Field(description="further data sets, each as kind:folder (see image_sets.READERS)")
    focus_pictures: int = Field(ge=0, description="shifted pictures whose saliency is measured; 0 for none")

    # 05 mutual-information-penalised features
    feature_backbone: str = Field(min_length=1, description="timm model whose frozen features are projected")
    feature_components: Count = Field(description="principal components of the frozen features that are kept")
    feature_methods: Annotated[tuple[Literal[FEATURE_METHODS], ...], Field(strict=False, min_length=2)] = Field(
        description=f"none first, then those that are compared with it, of {', '.join(FEATURE_METHODS)}"
    )
    foreground_width: Count = Field(description="number of foreground features")
    background_width: Count = Field(description="number of background features")
    penalty_weight: PositiveNumber = Field(description="weight of the dependence penalty beside the cross-entropies")
    penalty_weights: Annotated[tuple[PositiveNumber, ...], Field(strict=False)] = Field(
        description="further weights, positive, that make a curve of each method"
    )
    inlp_rounds: Counts = Field(description="rounds of INLP that are compared; the last is the main one")
    leace_directions: Counts = Field(description="directions that LEACE erases, at most; the last is the main one")
    critic_steps: Count = Field(description="critic steps a feature step (D3S: 5 in the paper, 4 in the code)")
    gradient_penalty: float = Field(ge=0, description="weight of the critic's gradient penalty")
    warmup_steps: int = Field(ge=0, description="feature steps on cross-entropy alone, before the penalty")
    training_steps: Count = Field(
        description=f"feature steps in all; {' and '.join(KERNEL_METHODS)}, which have no critic, take twice as many"
    )
    training_batch_size: int = Field(ge=2, description="images a step, at least 2")
    learning_rate: PositiveNumber = Field(description="Adam's learning rate for the features")
    critic_width: Count | Literal["halving"] = Field(
        description="width of a critic's first hidden layer, each next one has half; halving begins with half of the "
        "critic's input and ends at 1, as in the code of D3S"
    )
    critic_learning_rate: PositiveNumber = Field(description="Adam's learning rate for the critics")
    feature_seeds: Count = Field(description="how many times features are learned, each time from another start")
    probe_kinds: Annotated[tuple[Literal[PROBE_KINDS], ...], Field(strict=False, min_length=1)] = Field(
        description=f"some of {', '.join(PROBE_KINDS)}; the first is the main one"
    )
    fine_tune: dict[str, Any] = Field(
        description="backbone, photos and any of FinetuningOptions, to train a whole backbone too; empty trains none"
    )

    # 06 spurious correlation
    spurious_method: Literal[LEARNED_METHODS] = Field(description="penalty by which the split of features is learned")
    spurious_correlations: Annotated[tuple[Share, ...], Field(strict=False, min_length=1)] = Field(
        description="shares of a class's training pictures that show its own background; the largest is the headline's"
    )
    spurious_seeds: Count = Field(description="how many ties of classes and backgrounds are drawn, each with its split")
    balanced_share: float = Field(gt=0, lt=1, description="share of training foregrounds kept for the balanced set")
    saliency_pictures: int = Field(ge=0, description="guides, and results, whose heat map is measured; 0 for none")

    # 07 backgrounds challenge
    in9_folder: Place | None = Field(description="folder of the real Backgrounds Challenge; null imitates it")
    homes: dict[str, str] = Field(
        description="superclass: background that it stands on in the imitation; others are read from real photos, or "
        "from a built-in list"
    )
    challenge_pictures: Count = Field(description="objects of the imitation, at most, even over classes")
    challenge_backgrounds: int = Field(ge=0, description="other classes' backgrounds an object is tried on; 0 for all")

    @field_validator("image_sets")
    @classmethod
    def _check_image_sets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [entry for entry in value if not all(entry.partition(":"))]
        if wrong:
            raise ValueError(f"must be like kind:folder, {wrong[0]!r} is not")
        return tuple(f"{kind}:{_place(place)}" for kind, _, place in (entry.partition(":") for entry in value))

    @field_validator("feature_methods")
    @classmethod
    def _begin_with_none(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value[0] != "none":
            raise ValueError(f"must begin with none, the method that others are compared with, not with {value[0]}")
        return _once(value)

    @field_validator("classifiers")
    @classmethod
    def _find_classifiers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _once(tuple(_place(name) for name in value))

    @field_validator("classes", mode="before")
    @classmethod
    def _name_all_classes(cls, value: Any) -> Any:
        return [c.synset for c in imagenet_classes()] if value == "all" else value

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _once(tuple(_class_of(key).synset for key in value))

    @field_validator("fine_tune")
    @classmethod
    def _check_fine_tune(cls, value: dict[str, Any]) -> dict[str, Any]:
        own = {name: each for name, each in value.items() if name not in ("backbone", "photos")}
        allowed = FinetuningOptions.__dataclass_fields__
        unknown = [name for name in own if name not in allowed]
        if unknown:
            raise ValueError(f"may hold backbone, photos, {', '.join(allowed)}, got {unknown[0]}")
        options = TypeAdapter(FinetuningOptions).validate_python(own)
        return value | {name: getattr(options, name) for name in own}

    @field_validator("homes")
    @classmethod
    def _check_homes(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in value if name not in IN9]
        if unknown:
            raise ValueError(f"may hold {', '.join(IN9)}, got {unknown[0]}")
        return {name: check_background(background) for name, background in value.items()}

    @field_validator("backgrounds")
    @classmethod
    def _check_backgrounds(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _once(tuple(check_background(name) for name in value))

    @property
    def run_folder(self) -> Path:
        """The folder of this run, output_dir/profile; paths in tables are relative to it."""
        return find_root() / Path(self.output_dir).expanduser() / self.profile

    def folder(self, stem: str) -> Path:
        """Return the output folder of the notebook `stem`; it may not exist yet."""
        return self.run_folder / stem

    def training_steps_of(self, method: str) -> int:
        """Return the feature steps of a method: `training_steps`, or twice as many where no critic trains between."""
        return self.training_steps * (2 if method in KERNEL_METHODS else 1)

    def of_notebook(self, stem: str) -> dict[str, Any]:
        """Return the parameters of the notebook `stem`: the run's own three and its `NOTEBOOK_SETTINGS`."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in ("profile", "output_dir", "seed", *NOTEBOOK_SETTINGS[stem])}


def profile_names() -> list[str]:
    """Return the names of the profiles there are."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_settings(profile: str = "mini", **overrides: Any) -> Settings:
    """Return the settings of `profile` with `overrides` in place of the profile's values.

    Args:
        profile: One of `profile_names`.
        overrides: Fields of `Settings`; None means the profile's value. Those of `BROUGHT_ALONG` may be
            ``"recommended"``: what notebook 00 chose for the bundled model, so that its weights bring their own.

    Raises:
        SettingsError: If a name is unknown or a value does not fit; it names the parameter, what is allowed
            and what came.
    """
    if profile not in profile_names():
        raise SettingsError(f"profile must be one of {', '.join(profile_names())}, got {profile!r}" + _closest(profile))
    path = PROFILES / f"{profile}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = [name for name in overrides if name not in Settings.model_fields]
    if unknown:
        allowed = ", ".join(sorted(Settings.model_fields))
        raise SettingsError(f"{unknown[0]!r} is no setting{_closest(unknown[0])}; the settings are: {allowed}")
    values |= {name: value for name, value in overrides.items() if value is not None}
    if "recommended" in (values[name] for name in BROUGHT_ALONG):
        recommended = json.loads(RECOMMENDED.read_text(encoding="utf-8"))
        values |= {name: value for name, value in recommended.items() if values[name] == "recommended"}
    try:
        return Settings(profile=profile, **values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(detail) for detail in error.errors())) from None


def _explain(detail: dict[str, Any]) -> str:
    """Say in one line which parameter does not fit, what is allowed and what came."""
    name, *place = detail["loc"]
    where = str(name) + "".join(f"[{part}]" for part in place if isinstance(part, int))
    if detail["type"] == "extra_forbidden":
        return f"{name!r} is no setting{_closest(str(name))}"
    if detail["type"] == "missing":
        return f"{name} is missing from the profile's file"
    problem = _PROBLEMS.get(detail["type"]) or detail["msg"].replace("Input should be", "must be")
    problem = problem.removeprefix("Value error, ")
    return f"{where} {problem} ({Settings.model_fields[name].description}), got {detail['input']!r}"


def _closest(name: str) -> str:
    known = [*Settings.model_fields, *profile_names()]
    matches = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _class_of(key: str) -> ImageNetClass:
    try:
        return imagenet_class(key)
    except ValueError as error:
        raise ValueError(f"holds {key!r}, which is no ImageNet class: {error}") from None


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"must hold each entry once, {', '.join(twice)} came twice")
    return values
