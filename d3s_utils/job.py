"""The main job: every numbered notebook in order, then the report. `make run` is this.

python -m d3s_utils.job run --profile mini --cores 2 --set "strength=0.5 seed=3"
python -m d3s_utils.job dry-run --profile paper
python -m d3s_utils.job report
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from d3s_utils.expected_cost import expected_cost
from d3s_utils.gallery import write_gallery
from d3s_utils.notebook_graph import NotebookError, NotebookJob, pending_notebooks, run_notebooks
from d3s_utils.processes import RunningError
from d3s_utils.report import gather_metrics, headline_table, write_report
from d3s_utils.settings import NOTEBOOK_SETTINGS, Settings, SettingsError, find_root, load_settings

NEEDS = {  # notebook -> those whose outputs it reads; 00 trains the bundled model and is never part of the job
    "01_compositing": (),
    "02_diffusion_generation": ("01_compositing",),
    "03_validation": ("01_compositing", "02_diffusion_generation"),
    "04_classifier_evaluation": ("01_compositing", "03_validation"),
    "05_invariant_features": ("03_validation",),
    "06_spurious_correlation": ("01_compositing", "03_validation", "05_invariant_features"),
    "07_backgrounds_challenge": ("01_compositing", "02_diffusion_generation", "03_validation"),
}
OWN_OUTPUT = "outputs/own"  # where a run on the user's own photos goes, so that the dreamt one stays
_FILE_ENDINGS = (".parquet", ".csv", ".zip", ".tar", ".png", ".jpg", ".jpeg")
SOURCES = (  # settings that may name a place on this machine
    "photos", "templates", "real_photos", "generator", "answers", "clip_model", "lpips_backbone", "in9_folder",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for and return the exit status: 0, or 1 after a clear message."""
    options = _parser().parse_args(arguments)
    try:
        settings = settings_of(
            profile=options.profile,
            photos=options.photos,
            templates=options.templates,
            output_dir=options.output_dir,
            assignments=options.set,
        )
        jobs = notebook_jobs(settings)
        if options.command == "dry-run":
            _say_plan(settings, jobs)
        elif options.command == "report":
            _say_results(settings)
        else:
            flags = shlex.split(options.snakemake_flags)
            print(f"Profile {settings.profile}, {len(jobs)} notebooks into {settings.run_folder}", flush=True)
            ran = run_notebooks(jobs, settings.run_folder, cores=options.cores, snakemake_flags=flags)
            print(f"Ran {', '.join(ran)}." if ran else "Nothing to do: every notebook is up to date.")
            _say_results(settings)
    except (ValueError, OSError, RunningError, NotebookError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def settings_of(
    *,
    profile: str = "mini",
    photos: str = "",
    templates: str = "",
    output_dir: str = "",
    assignments: str = "",
) -> Settings:
    """Return the settings that the command line describes; an empty text means "not given".

    Args:
        profile: The profile's name.
        photos: The user's photos: a folder or a parquet file, seen from the current folder, or a hub id.
        templates: The same for background scenes.
        output_dir: Where to write; `OWN_OUTPUT` when there are photos or templates and nothing else is said.
        assignments: Like ``strength=0.5 classes=[lion,goldfish]``; see `parse_assignments`.

    Raises:
        SettingsError: If something is unknown, mistyped, said twice, or not there.
    """
    overrides = parse_assignments(assignments)
    if "profile" in overrides:
        raise SettingsError(f"profile is given as --profile (PROFILE=...), not in --set; got {overrides['profile']!r}")
    given = {"photos": photos, "templates": templates, "output_dir": output_dir}
    for name, value in given.items():
        if value and name in overrides:
            raise SettingsError(f"{name} is given twice: {value!r} and {overrides[name]!r}")
        if value:
            overrides[name] = value
    for name in SOURCES:
        if overrides.get(name):
            overrides[name] = _checked_place(name, overrides[name])
    if overrides.get("image_sets"):
        entries = [str(entry).partition(":") for entry in overrides["image_sets"]]
        overrides["image_sets"] = [f"{kind}:{_checked_place('image_sets', place)}" for kind, _, place in entries]
    if (overrides.get("photos") or overrides.get("templates")) and "output_dir" not in overrides:
        overrides["output_dir"] = OWN_OUTPUT
    return load_settings(profile, **overrides)


def parse_assignments(text: str) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value is JSON or YAML, and may hold spaces.

    Raises:
        SettingsError: If the text is no such list, or a name comes twice.
    """
    pieces = re.split(r"(?:^|\s+)([A-Za-z_]\w*)=", text.strip())
    if pieces[0].strip():
        raise SettingsError(f'settings must be given as name=value pairs, like "strength=0.5 seed=3", got {text!r}')
    names, values = pieces[1::2], pieces[2::2]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SettingsError(f"{twice[0]} is given twice in {text!r}")
    return {name: _parse_value(name, value.strip()) for name, value in zip(names, values, strict=True)}


def notebook_jobs(settings: Settings) -> list[NotebookJob]:
    """Return the job's notebooks, each after those it needs, with the parameters that `settings` give them.

    Raises:
        SettingsError: If a notebook is not there.
    """
    jobs = []
    for stem, needs in NEEDS.items():
        notebook = find_root() / "notebooks" / f"{stem}.ipynb"
        if not notebook.exists():
            raise SettingsError(f"the job needs the notebook {notebook}, which is not there")
        places = [getattr(settings, name) for name in SOURCES if name in NOTEBOOK_SETTINGS[stem]]
        if "image_sets" in NOTEBOOK_SETTINGS[stem]:
            places += [entry.partition(":")[2] for entry in settings.image_sets]
        if "classifiers" in NOTEBOOK_SETTINGS[stem]:
            places += settings.classifiers
        sources = tuple(Path(place) for place in places if place and Path(place).exists())
        jobs.append(NotebookJob(notebook, needs, settings.of_notebook(stem), sources))
    return jobs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m d3s_utils.job", description="Run every numbered notebook.")
    parser.add_argument("command", choices=("run", "dry-run", "report"))
    parser.add_argument("--profile", default="mini", help="mini, gpu or paper")
    parser.add_argument("--cores", type=_positive, default=2, help="cores that a notebook may use")
    parser.add_argument("--photos", default="", help="folder, parquet file or hub id of your own foreground photos")
    parser.add_argument("--templates", default="", help="the same for background scenes")
    parser.add_argument("--output-dir", default="", help=f"default: outputs, or {OWN_OUTPUT} with photos of your own")
    parser.add_argument("--set", default="", help='settings to change, such as "strength=0.5 seed=3"')
    parser.add_argument("--snakemake-flags", default="", help="handed to snakemake, such as an executor's")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _parse_value(name: str, text: str) -> Any:
    try:
        return json.loads(text)  # knows 1e-3, which YAML takes for a text
    except ValueError:
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"{name} must be a YAML value, got {text!r}: {error}") from None


def _checked_place(name: str, value: Any) -> Any:
    """Make a local path absolute, seen from the current folder; refuse what is neither a path nor a hub id."""
    if not isinstance(value, str) or value == "bundled":
        return value
    path = Path(value).expanduser()
    if path.exists():
        return str(path.resolve())
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", value) or path.suffix in _FILE_ENDINGS:
        raise SettingsError(f"{name} must be a folder or file that is there, or a hub id (owner/name), got {value!r}")
    return value


def _say_plan(settings: Settings, jobs: list[NotebookJob]) -> None:
    pending = pending_notebooks(jobs, settings.run_folder)
    print(f"Profile {settings.profile} into {settings.run_folder}:")
    for job in jobs:
        print(f"  {job.stem:28} {'would run' if job.stem in pending else 'is up to date'}")
    cost = expected_cost(settings)
    print(f"A whole run dreams {cost.dreamt_images:,} images ({cost.all_images:,} with guides and scenes),")
    print(f"takes about {cost.gigabytes:.2g} GB of disk and {cost.duration} of time, if:")
    for assumption in cost.assumptions:
        print(f"  - {assumption}")


def _say_results(settings: Settings) -> None:
    records = gather_metrics(settings)
    if not records:
        raise NotebookError(f"no notebook has left a metrics.json below {settings.run_folder}; `make run` makes them")
    gallery = write_gallery(settings.run_folder)  # first, since the report links to it
    path = write_report(settings, records)
    print(headline_table(_of_this_run(records)))
    print(f"\nReport: {path}")
    if gallery:
        print(f"Gallery: {gallery}")


def _of_this_run(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {stem: record for stem, record in records.items() if stem in NEEDS}


if __name__ == "__main__":
    sys.exit(main())
