import json

import pytest
import yaml

from d3s_utils.settings import (
    NOTEBOOK_SETTINGS,
    PROFILES,
    RECOMMENDED,
    Settings,
    SettingsError,
    load_settings,
    profile_names,
)
from d3s_utils.taxonomy import BACKGROUNDS


@pytest.mark.parametrize("profile", ["mini", "gpu", "paper"])
def test_profiles_hold_every_setting_once(profile):
    lines = (PROFILES / f"{profile}.yaml").read_text().splitlines()
    names = [line.split(":")[0] for line in lines if line and line[0] not in " #"]
    assert sorted(names) == sorted(set(Settings.model_fields) - {"profile", "output_dir", "seed"})
    assert load_settings(profile).backgrounds == tuple(BACKGROUNDS)


def test_paper_has_the_size_of_the_paper():
    settings = load_settings("paper")
    guides = settings.guides_per_class_train + settings.guides_per_class_val
    assert len(settings.classes) * len(settings.backgrounds) * guides == 120_000
    assert (settings.image_size, settings.strength, settings.guidance_scale, settings.steps) == (512, 0.9, 5.0, 50)
    assert settings.foreground_scale == 0.4


def test_an_override_of_none_is_the_profiles_value():
    assert load_settings("mini", strength=None, seed=3) == load_settings("mini", seed=3)


def test_the_bundled_weights_bring_their_own_settings(monkeypatch, tmp_path):
    shipped = json.loads(RECOMMENDED.read_text())
    assert sorted(shipped) == [
        "dream_eta",
        "dream_guidance_scale",
        "foreground_candidates",
        "guidance_scale",
        "strength",
    ]
    settings = load_settings("mini", guidance_scale=7.0)
    assert (settings.strength, settings.guidance_scale) == (shipped["strength"], 7.0)
    monkeypatch.setattr("d3s_utils.settings.RECOMMENDED", tmp_path / "other.json")
    (tmp_path / "other.json").write_text(json.dumps(shipped | {"strength": 0.77}))
    assert load_settings("mini").strength == load_settings("paper", strength="recommended").strength == 0.77
    assert load_settings("paper").strength == 0.9
    with pytest.raises(SettingsError, match=r"steps must be a valid integer .* got 'recommended'"):
        load_settings("mini", steps="recommended")


def test_class_names_become_synsets():
    assert load_settings("mini", classes=["Golden_Retriever", "n02129165"]).classes == ("n02099601", "n02129165")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"strenght": 0.5}, "'strenght' is no setting; did you mean 'strength'"),
        ({"strength": "half"}, r"strength must be a valid number .*in \(0, 1\].* got 'half'"),
        ({"strength": 1.5}, r"strength must be less than or equal to 1 .* got 1\.5"),
        ({"strength": float("nan")}, "strength must be a finite number"),
        ({"seed": "3"}, "seed must be a valid integer .* got '3'"),
        ({"seed": True}, "seed must be a valid integer .* got True"),
        ({"seed": -1}, "seed must be greater than or equal to 0 .* got -1"),
        ({"steps": 2.5}, "steps must be a valid integer .* got 2.5"),
        ({"image_size": 100}, "image_size must be a multiple of 8 .* got 100"),
        ({"mask_mode": "grabcat"}, "mask_mode must be 'none', .* got 'grabcat'"),
        ({"backgrounds": "snow"}, "backgrounds must be a list .* got 'snow'"),
        ({"backgrounds": []}, "backgrounds must hold at least one entry"),
        ({"backgrounds": ["snow", "snow"]}, "snow came twice"),
        ({"backgrounds": ["lava"]}, "backgrounds .*must be one of grass, .* got 'lava'"),
        ({"classes": ["lino"]}, "classes holds 'lino', which is no ImageNet class"),
        ({"photos": 3}, "photos must be a valid string .* got 3"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(SettingsError, match=message):
        load_settings("mini", **overrides)


def test_unknown_profile():
    with pytest.raises(
        SettingsError, match="profile must be one of gpu, mini, paper, got 'minni'; did you mean 'mini'"
    ):
        load_settings("minni")


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().strength = 0.1


def test_folders_lie_below_the_root_wherever_one_stands(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    assert load_settings().folder("03_validation") == root / "outputs" / "mini" / "03_validation"
    assert load_settings(output_dir=tmp_path).run_folder == tmp_path / "mini"


def test_local_places_become_absolute_and_hub_ids_stay(tmp_path, root):
    assert load_settings(photos=tmp_path).photos == str(tmp_path)
    assert load_settings(photos="notebooks").photos == str(root / "notebooks")
    assert load_settings(generator="CompVis/stable-diffusion-v1-4").generator == "CompVis/stable-diffusion-v1-4"


def test_parameters_of_a_notebook_survive_yaml():
    for stem, names in NOTEBOOK_SETTINGS.items():
        values = load_settings("gpu", seed=5).of_notebook(stem)
        assert set(values) == {"profile", "output_dir", "seed", *names}
        again = load_settings(**yaml.safe_load(yaml.safe_dump(values)))
        assert again.of_notebook(stem) == values


def test_every_setting_reaches_a_notebook():
    used = {name for names in NOTEBOOK_SETTINGS.values() for name in names}
    assert used | {"profile", "output_dir", "seed"} == set(Settings.model_fields)
    assert len(profile_names()) == 3


def test_homes_are_checked_before_anything_starts():
    given = {"wheeled vehicle": "road", "fish": "water"}
    assert load_settings("mini", homes=given).homes == given
    assert load_settings("mini").homes == {}
    for wrong, words in (({"cat": "grass"}, "may hold dog"), ({"dog": "sofa"}, "one of grass"), (["dog"], "homes")):
        with pytest.raises(SettingsError, match=words):
            load_settings("mini", homes=wrong)


def test_fine_tune_is_checked_before_anything_starts():
    given = {"backbone": "resnet18", "learning_rate": "1e-4", "steps": 20}  # YAML reads 1e-4 as text
    assert load_settings("mini", fine_tune=given).fine_tune == given | {"learning_rate": 1e-4}
    for wrong in ({"steps": 0}, {"stps": 3}, {"learning_rate": "fast"}, {"critic_width": 0}, {"critic_width": "half"}):
        with pytest.raises(SettingsError, match="fine_tune"):
            load_settings("mini", fine_tune=wrong)


def test_the_authors_critic_can_be_asked_for_and_is_the_papers():
    paper = load_settings("paper")
    assert paper.critic_width == paper.fine_tune["critic_width"] == "halving"
    assert (paper.critic_steps, load_settings("paper", critic_steps=4).critic_steps) == (5, 4)
    assert load_settings("mini", critic_width="halving").critic_width == "halving"
    assert load_settings("mini", fine_tune={"critic_width": "halving"}).fine_tune == {"critic_width": "halving"}
    for wrong in ("half", 0):
        with pytest.raises(SettingsError, match=f"critic_width must be 'halving' .* got {wrong!r}"):
            load_settings("mini", critic_width=wrong)
