"""The list of requests is complete, ordered and seeded by names alone; bad tables are named errors."""

import hashlib

import pandas as pd
import pytest

from d3s_utils.dreaming import DreamOptions
from d3s_utils.generation_requests import GUIDE_COLUMNS, image_seed, make_requests, shard_of
from d3s_utils.randomness import derive_seed

OPTIONS = DreamOptions(strength=0.7, steps=20, guidance_scale=4.0)


@pytest.fixture
def guides(settings):
    return pd.read_parquet(settings.folder("01_compositing") / "guides.parquet")


def requests_of(guides, settings, seed=0):
    return make_requests(guides, root=settings.run_folder, seed=seed, options=OPTIONS)


def test_one_request_for_each_guide_in_a_fixed_order(guides, settings):
    requests = requests_of(guides.sample(frac=1, random_state=3), settings)
    pd.testing.assert_frame_equal(requests, requests_of(guides, settings))
    assert set(requests["image_id"]) == set(guides["image_id"])
    assert list(requests[["split", "class_name", "background", "repeat"]].itertuples(index=False, name=None)) == [
        ("train", "lion", "grass", 0), ("train", "lion", "grass", 1),
        ("train", "lion", "snow", 0), ("train", "lion", "snow", 1),
        ("train", "organ", "grass", 0), ("train", "organ", "grass", 1),
        ("train", "organ", "snow", 0), ("train", "organ", "snow", 1),
        ("val", "lion", "grass", 2), ("val", "lion", "snow", 2),
        ("val", "organ", "grass", 2), ("val", "organ", "snow", 2),
    ]  # fmt: skip
    lion = requests.iloc[2]
    assert lion["prompt"].startswith("a photo of a lion, large gregarious predatory feline")
    assert lion["prompt"].endswith(", in snow")
    assert (lion["strength"], lion["steps"], lion["guidance_scale"], lion["eta"]) == (0.7, 20, 4.0, 0.0)
    content = (settings.run_folder / lion["guide_file"]).read_bytes()
    assert lion["guide_sha256"] == hashlib.sha256(content).hexdigest()


def test_a_seed_comes_from_the_run_and_the_picture_alone(guides, settings):
    all_seeds = requests_of(guides, settings).set_index("image_id")["seed"]
    few_seeds = requests_of(guides.iloc[[5, 2]], settings).set_index("image_id")["seed"]
    assert all_seeds[few_seeds.index].equals(few_seeds)
    assert all_seeds.is_unique
    assert not set(all_seeds) & set(requests_of(guides, settings, seed=1)["seed"])
    assert image_seed(0, "a") == derive_seed(0, "image", "a")
    assert len({image_seed(0, "a", attempt=attempt) for attempt in (1, 2, 3)}) == 3
    with pytest.raises(ValueError, match="attempt must be at least 1, got 0"):
        image_seed(0, "a", attempt=0)


@pytest.mark.parametrize("count", [1, 3, 5, 20])
def test_shards_share_the_requests_out(guides, settings, count):
    requests = requests_of(guides, settings)
    shards = [shard_of(requests, index=index, count=count) for index in range(count)]
    pd.testing.assert_frame_equal(pd.concat(shards, ignore_index=True), requests)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_shards_that_do_not_exist(guides, settings):
    requests = requests_of(guides, settings)
    for index, count in ((3, 3), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="shard index must be in"):
            shard_of(requests, index=index, count=count)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("image_id", "../../escape", "image_id must be letters"),
        ("image_id", ".hidden", "image_id must be letters"),
        ("image_id", "n02129165-0000-grass", "image_id must be used once"),
        ("split", "test", "split must be one of train, val, got 'test'"),
        ("background", "moon", "background must be one of grass, road"),
        ("synset", "n99999999", "class must be an ImageNet synset"),
        ("guide_file", "../secret.png", "leaves its root"),
        ("guide_file", "01_compositing/guides/none.png", "run notebook 01"),
        ("canvas", 128, r"canvas must be one size for all guides, got \[64, 128\]"),
    ],
)
def test_bad_tables_are_named_errors(guides, settings, column, value, message):
    guides.loc[3, column] = value
    with pytest.raises(ValueError, match=message):
        requests_of(guides, settings)


def test_tables_that_are_no_guides(guides, settings):
    assert set(GUIDE_COLUMNS) <= set(guides)
    with pytest.raises(ValueError, match="missing: synset, mask_file"):
        requests_of(guides.drop(columns=["synset", "mask_file"]), settings)
    with pytest.raises(ValueError, match="at least one line"):
        requests_of(guides.iloc[:0], settings)
