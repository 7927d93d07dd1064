"""The background head: it learns what can be learnt, survives saving, and refuses what was changed."""

import json

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb

from d3s_utils.background_classifier import (
    BUNDLED_FOLDER,
    BackgroundHeadError,
    load_background_head,
    save_background_head,
)
from d3s_utils.background_training import (
    JudgePhotos,
    blur_some,
    measure_background_head,
    paste_foregrounds,
    train_background_head,
)
from d3s_utils.taxonomy import BACKGROUNDS


def coloured_pictures(count, seed):
    """Return pictures whose colour tells their background."""
    random = np.random.default_rng(seed)
    names = np.array(list(BACKGROUNDS) * count)
    tens = [hsv_to_rgb((i / 10, 0.9, 0.4 + 0.5 * (i % 2))) for i in range(10)]
    colours = 255 * np.array(tens)[np.tile(np.arange(10), count), None, None]
    return (colours + random.normal(0, 8, (len(names), 16, 16, 3))).clip(0, 255).astype(np.uint8), names


@pytest.fixture(scope="module")
def head():
    return train_background_head(*coloured_pictures(8, seed=0), seed=0, side=64)


def test_the_head_learns_colours(head):
    pictures, names = coloured_pictures(3, seed=1)
    measured = measure_background_head(head, pictures, names)
    assert measured["accuracy"]["value"] > 0.9
    assert measured["accuracy"]["n"] == 30
    assert np.trace(np.array(measured["confusion"])) == round(measured["accuracy"]["value"] * 30)
    assert set(measured["recall"]) == set(BACKGROUNDS)


def test_probabilities_are_probabilities_and_do_not_depend_on_the_batch(head):
    pictures, _ = coloured_pictures(1, seed=2)
    table = head.probabilities(pictures, batch_size=3)
    assert table.shape == (10, 10)
    np.testing.assert_allclose(table.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(table, head.probabilities(pictures, batch_size=10), atol=1e-4)


def test_training_twice_gives_the_same_head(head):
    again = train_background_head(*coloured_pictures(8, seed=0), seed=0, side=64)
    np.testing.assert_allclose(again.weight, head.weight, atol=1e-5)


def test_saved_and_loaded_it_says_the_same(head, tmp_path):
    sha256 = save_background_head(head, tmp_path / "head")
    loaded = load_background_head(tmp_path / "head")
    pictures, _ = coloured_pictures(1, seed=3)
    assert loaded.sha256 == sha256
    np.testing.assert_allclose(loaded.probabilities(pictures), head.probabilities(pictures), atol=1e-6)


def test_a_changed_or_incomplete_head_is_refused(head, tmp_path):
    save_background_head(head, tmp_path)
    card = tmp_path / "card.json"
    original = card.read_text()
    card.write_text(original.replace('"side": 64', '"side": 65'))
    with pytest.raises(BackgroundHeadError, match=r"card\.json has sha256"):
        load_background_head(tmp_path)
    card.unlink()
    with pytest.raises(BackgroundHeadError, match=r"lacks card\.json"):
        load_background_head(tmp_path)


def test_another_backbone_is_noticed(head, tmp_path):
    changed = type(head)(head.backbone, head.weight, head.bias, head.card | {"backbone_sha256": "0" * 64})
    save_background_head(changed, tmp_path)
    with pytest.raises(BackgroundHeadError, match="not those that"):
        load_background_head(tmp_path)


def test_the_judge_sees_the_edge_of_a_picture(head):
    picture = np.zeros((64, 64, 3), np.uint8)
    framed = picture.copy()
    framed[:2] = framed[-2:] = framed[:, :2] = framed[:, -2:] = 255
    plain, edge = head.probabilities([picture, framed])
    assert not np.allclose(plain, edge, atol=1e-4)


def test_bad_training_data_is_named():
    pictures, names = coloured_pictures(1, seed=0)
    with pytest.raises(ValueError, match="missing are cave"):
        train_background_head(pictures[:-1], names[:-1], seed=0)
    with pytest.raises(ValueError, match="got 9 names"):
        train_background_head(pictures, names[:-1], seed=0)
    with pytest.raises(ValueError, match="background must be one of"):
        train_background_head(pictures, ["desert", *names[1:]], seed=0)


def test_pasting_changes_a_square_only():
    scenes = np.zeros((6, 64, 64, 3), np.uint8)
    photos = np.full((2, 32, 32, 3), 200, np.uint8)
    pasted = paste_foregrounds(scenes, photos, np.array([[4, 4, 20, 27], [0, 0, 31, 31]]), seed=0)
    assert not scenes.any()
    for scene in pasted:
        rows, columns = np.nonzero(scene[..., 0])
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height == width
        assert 0.4 * 64 - 1 <= width <= 0.65 * 64
        assert len(rows) == height * width


def test_blurring_softens_a_share_of_the_pictures_and_keeps_their_light():
    sharp = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    blurred = blur_some(sharp, seed=0, share=0.5)
    changed = (blurred != sharp).any((1, 2, 3))
    assert 10 <= changed.sum() <= 30
    assert blurred[changed].std() < 0.8 * sharp[changed].std()
    assert blurred.mean() == pytest.approx(sharp.mean(), abs=1.5)


def test_held_out_photos_are_on_one_side_only():
    numbers = np.arange(11)
    photos = JudgePhotos(numbers, numbers.astype(str), numbers, numbers)
    one, rest = photos.every_fourth(left_out=False), photos.every_fourth(left_out=True)
    assert sorted([*one.scenes, *rest.scenes]) == list(numbers)
    assert one.scenes.tolist() == [0, 4, 8]


def test_the_shipped_head_is_whole_and_its_card_tells_how_good_it_is():
    head = load_background_head()
    card = json.loads((BUNDLED_FOLDER / "card.json").read_text())
    assert head.weight.shape == (10, 2 * sum(head.backbone.feature_info.channels()))
    assert card["backgrounds"] == list(BACKGROUNDS)
    for part in ("scenes", "scenes_with_object", "scenes_blurred"):
        accuracy = card[part]["accuracy"]
        assert 0.6 < accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert min(card[part]["recall"].values()) > 0.3
    assert sum(path.stat().st_size for path in BUNDLED_FOLDER.iterdir()) < 200_000
