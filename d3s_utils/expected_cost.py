"""What a run is expected to cost, from its settings alone."""

from dataclasses import dataclass

from d3s_utils.settings import Settings

BYTES_PER_PIXEL = 2.0  # of a png of a photo: about two thirds of its three bytes
JUDGED_PICTURES_PER_SECOND = {"cpu": 6.0, "gpu": 200.0}  # notebooks 03 to 07 together, the bundled classifiers
BUNDLED_STEPS_PER_SECOND = 70.0  # pictures x denoising steps, guided, on two cores
STABLE_DIFFUSION_STEPS_PER_SECOND = 25.0  # the same at 512 px on one data-centre GPU in half precision
OVERHEAD_SECONDS = 180.0  # starting seven kernels, loading models, drawing
LEARNING_SECONDS = 570.0  # notebooks 05 and 06 on two cores, `mini`: every method at every strength, and their probes


@dataclass(frozen=True)
class Cost:
    """An estimate, to tell minutes from days.

    Attributes:
        dreamt_images: Images that notebook 02 makes, with the twins on the objects' own ground.
        all_images: These, their guides, foregrounds and templates.
        gigabytes: Disk space of them all.
        hours: Time of the seven notebooks.
        assumptions: What it rests on, one sentence each.
    """

    dreamt_images: int
    all_images: int
    gigabytes: float
    hours: float
    assumptions: tuple[str, ...]

    @property
    def duration(self) -> str:
        """The time in words: minutes, hours or days."""
        if self.hours < 1:
            return f"{self.hours * 60:.0f} minutes"
        return f"{self.hours:.1f} hours" if self.hours < 48 else f"{self.hours / 24:.1f} days"


def expected_cost(settings: Settings) -> Cost:
    """Return what a run with `settings` is expected to cost when nothing of it is there yet."""
    foregrounds = len(settings.classes) * (settings.guides_per_class_train + settings.guides_per_class_val)
    templates = len(settings.backgrounds) * settings.templates_per_background
    per_class = {"train": settings.guides_per_class_train, "val": settings.guides_per_class_val}
    with_twin = len(settings.classes) * sum(per_class[split] for split in settings.own_ground_splits)
    dreamt = (foregrounds + with_twin) * len(settings.backgrounds)
    objects = foregrounds * settings.foreground_candidates * (settings.photos is None)
    from_text = objects + templates * (settings.templates is None)
    pictures = (objects or foregrounds) + templates + 2 * dreamt
    picture_steps = from_text * settings.dream_steps + dreamt * max(1, round(settings.strength * settings.steps))
    pixels = settings.image_size**2
    if settings.generator == "bundled":
        per_second, where = BUNDLED_STEPS_PER_SECOND * 64**2 / pixels, "two cores"
        judged_per_second, learning = JUDGED_PICTURES_PER_SECOND["cpu"], LEARNING_SECONDS
    else:
        per_second, where = STABLE_DIFFUSION_STEPS_PER_SECOND * 512**2 / pixels, "one data-centre GPU"
        judged_per_second, learning = JUDGED_PICTURES_PER_SECOND["gpu"], 0.0  # of such training nothing was measured
    judged = dreamt + (objects or foregrounds)
    seconds = OVERHEAD_SECONDS + learning + picture_steps / per_second + judged / judged_per_second
    return Cost(
        dreamt_images=dreamt,
        all_images=pictures,
        gigabytes=pictures * pixels * BYTES_PER_PIXEL / 1e9,
        hours=seconds / 3600,
        assumptions=(
            f"{per_second:.3g} denoising steps a second at {settings.image_size} px ({where}): {picture_steps:,} steps",
            f"{judged_per_second:.3g} pictures a second through all classifiers",
            f"{learning / 60:.2g} minutes of training in notebooks 05 and 06{'' if learning else ' (not measured)'}",
            f"{BYTES_PER_PIXEL:g} bytes a pixel as png",
            "one job at a time; a cluster divides the time by its jobs",
        ),
    )
