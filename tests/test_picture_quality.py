"""Quality measures on pictures whose answers are known, outliers by hand, look-alikes by brute force."""

from itertools import product

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from d3s_utils import picture_quality as module
from d3s_utils.picture_quality import (
    hash_distance,
    near_duplicates,
    nearest_hashes,
    picture_quality,
    quality_outliers,
    quality_table,
    robust_outliers,
)
from d3s_utils.randomness import numpy_generator


def noise(name, *, side=48):
    return numpy_generator(0, name).integers(0, 256, (side, side, 3), dtype=np.uint8)


def flat(value, *, side=32):
    return np.full((side, side, 3), value, np.uint8)


def random_hashes(n, *, name="hashes"):
    """Hashes of which many are a few bits from another."""
    generator = numpy_generator(0, name)
    numbers = generator.integers(0, 2**63, n, dtype=np.uint64)
    for place in range(1, n, 2):
        flips = generator.choice(64, generator.integers(0, 7), replace=False)
        numbers[place] = numbers[generator.integers(0, place)] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    return [f"{number:016x}" for number in numbers]


def differing_bits(first, second):
    return int(imagehash.hex_to_hash(first) - imagehash.hex_to_hash(second))


def test_exposure_of_pictures_that_are_known():
    halves = flat(0)
    halves[:, 16:] = 255
    table = picture_quality([flat(0), flat(51), halves])
    np.testing.assert_allclose(table["brightness"], [0, 0.2, 0.5], atol=1e-6)
    np.testing.assert_allclose(table["contrast"], [0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(table["clipped"], [1, 0, 1], atol=1e-6)
    assert table["sharpness"].tolist()[:2] == [0, 0]


def test_sharpness_is_the_laplacian_written_out():
    grey = np.repeat(noise("grey")[:, :, :1], 3, axis=2)
    wide = np.pad(grey[:, :, 0].astype(float), 1, mode="reflect")
    middle = wide[1:-1, 1:-1]
    laplacian = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * middle
    assert picture_quality([grey])["sharpness"][0] == pytest.approx(np.log(1 + laplacian.var()), rel=1e-6)


def test_a_blurred_picture_is_less_sharp_and_as_bright():
    sharp = Image.fromarray(noise("sharp"))
    table = picture_quality([sharp, *(sharp.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 3))])
    assert table["sharpness"].is_monotonic_decreasing
    assert table["sharpness"][0] - table["sharpness"][2] > 2
    assert np.ptp(table["brightness"]) < 0.02


def test_hashes_are_those_of_imagehash_and_unreadable_pictures_have_none(tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    Image.fromarray(noise("file")).save(tmp_path / "good.png")
    pictures = [noise("array"), tmp_path / "torn.png", tmp_path / "good.png"]
    table = picture_quality(pictures, batch_size=2)
    expected = [str(imagehash.phash(Image.fromarray(noise(name)))) for name in ("array", "file")]
    assert table["perceptual_hash"].tolist() == [expected[0], "", expected[1]]
    assert table[["sharpness", "brightness", "contrast", "clipped"]].isna().all(axis=1).tolist() == [False, True, False]
    pd.testing.assert_frame_equal(table, picture_quality(pictures, batch_size=1))
    assert len(picture_quality([])) == 0
    with pytest.raises(ValueError, match=r"answers must have shape \(n, 68\), got \(2, 4\)"):
        quality_table(np.zeros((2, 4)))


def test_the_robust_z_is_that_of_the_source_by_hand():
    found = robust_outliers([1, 2, 3, 4, 100, np.nan], threshold=3.5)  # median 3, deviations 2 1 0 1 97, MAD 1
    np.testing.assert_allclose(found["z"], 0.6745 * np.array([-2, -1, 0, 1, 97, np.nan]))
    assert found["outlier"].tolist() == [False] * 4 + [True, False]
    assert robust_outliers([1, 2, 3, 4, -100], threshold=3.5)["outlier"].tolist() == [False] * 4 + [True]


def test_values_are_compared_within_their_group():
    night, day = [0.10, 0.11, 0.12, 0.13, 0.14], [0.6, 0.61, 0.62, 0.63, 0.12]
    groups = ["night"] * 5 + ["day"] * 5
    assert np.flatnonzero(robust_outliers(night + day, threshold=3.5, groups=groups)["outlier"]).tolist() == [9]
    assert not robust_outliers(night + day, threshold=3.5)["outlier"][9], "a day as dark as a night, beside nights"


def test_a_median_deviation_of_nothing_falls_back_on_the_mean():
    values = [0.0] * 9 + [1.0]
    z = robust_outliers(values, threshold=3.5)["z"]
    np.testing.assert_allclose(z, np.array(values) / (np.sqrt(np.pi / 2) * 0.1))
    assert robust_outliers([2.0] * 4, threshold=3.5)["z"].tolist() == [0] * 4
    np.testing.assert_allclose(robust_outliers(values, threshold=3.5, least_spread=0.5)["z"], np.array(values) / 0.5)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0, np.inf], {"threshold": 3}, "finite or NaN, got inf"),
        ([1.0], {"threshold": 0}, "threshold must be above 0, got 0"),
        ([1.0], {"threshold": 3, "groups": ["a", "b"]}, "one a value, got 2 for 1"),
        ([1.0], {"threshold": 3, "least_spread": -1}, "least_spread must be at least 0, got -1"),
    ],
)
def test_bad_values_are_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        robust_outliers(values, **options)


def test_a_blurred_a_dark_and_a_clipped_picture_stand_out_on_their_background():
    generator = numpy_generator(0, "quality")
    n = 20
    quality = pd.DataFrame(
        {
            "sharpness": generator.normal(6, 0.2, 2 * n),
            "brightness": np.r_[generator.normal(0.6, 0.02, n), generator.normal(0.1, 0.02, n)],
            "clipped": np.zeros(2 * n),
        },
        index=range(100, 100 + 2 * n),
    )
    quality.iloc[0, 0] = 1.0  # blurred, in the snow
    quality.iloc[1, 1] = 0.1  # dark as a night, in the snow
    quality.iloc[2, 2] = 0.4
    quality.iloc[3, 2] = 0.005  # clipped where no other is, but hardly
    quality.iloc[n + 4] = np.nan
    found = quality_outliers(quality, backgrounds=["snow"] * n + ["night"] * n)
    assert quality.index.equals(found.index)
    assert np.flatnonzero(found["sharpness_outlier"]).tolist() == [0]
    assert np.flatnonzero(found["exposure_outlier"]).tolist() == [1, 2]
    assert found["brightness_z"].iloc[1] < -3.5


def test_little_clipping_is_no_fault():
    quality = pd.DataFrame({"sharpness": 1.0, "brightness": 0.5, "clipped": [0.5, 0.5, 0.5, 0.51, 0.49, 0.0]})
    assert not quality_outliers(quality, backgrounds=["snow"] * 6)["exposure_outlier"].any()


def test_hash_distances_are_those_of_imagehash():
    first, second = random_hashes(40), random_hashes(40, name="others")
    expected = [differing_bits(*pair) for pair in zip(first, second, strict=True)]
    assert hash_distance(first, second).tolist() == expected
    assert len(set(expected)) > 5
    np.testing.assert_array_equal(
        hash_distance(["0" * 16, "", "f" * 16], ["f" * 16, "0" * 16, ""]), [64, np.nan, np.nan]
    )
    with pytest.raises(ValueError, match="other_hashes must be as many as hashes, got 1 for 2"):
        hash_distance(first[:2], second[:1])


@pytest.mark.parametrize("pairs_at_once", [1, 200, 1_000_000])
def test_look_alikes_are_those_of_brute_force(monkeypatch, pairs_at_once):
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs_at_once)
    hashes = random_hashes(61)
    hashes[5] = hashes[30] = ""
    hashes[17] = hashes[3]
    ids = [f"p{place}" for place in range(61)]
    table = near_duplicates(hashes, bits=4, ids=ids)
    apart = {(i, j): differing_bits(hashes[i], hashes[j]) for i, j in product(range(61), repeat=2)
             if i != j and hashes[i] and hashes[j]}  # fmt: skip
    duplicates = 0
    for i, row in table.iterrows():
        others = [(d, j) for (first, j), d in apart.items() if first == i]
        if not others:
            assert i in (5, 30)
            assert np.isnan(row["nearest_distance"])
            assert (row["nearest_id"], row["duplicate_of"]) == ("", "")
            continue
        assert (row["nearest_distance"], row["nearest_id"]) == (min(others)[0], ids[min(others)[1]])
        before = [(d, j) for d, j in others if j < i and d <= 4]
        assert row["duplicate_of"] == (ids[min(before)[1]] if before else "")
        duplicates += bool(before)
    assert 10 < duplicates < 40
    kept = [i for i in range(61) if hashes[i] and not table["duplicate_of"][i]]
    assert all(apart[i, j] > 4 for i in kept for j in kept if i != j)
    assert table["duplicate_of"][0] == ""


def test_a_later_look_alike_makes_no_duplicate_and_the_limit_counts_in():
    hashes = [f"{number:016x}" for number in (0, 0b111, 0xFFFF0000)]
    assert near_duplicates(hashes, bits=3, ids="abc")["duplicate_of"].tolist() == ["", "a", ""]
    assert near_duplicates(hashes, bits=2, ids="abc")["duplicate_of"].tolist() == ["", "", ""]


def test_the_nearest_of_another_set():
    guides = ["", f"{0b1:016x}", f"{0b11:016x}", f"{0b1:016x}"]
    table = nearest_hashes([f"{0:016x}", "", f"{0b111:016x}"], guides, reference_ids=["g0", "g1", "g2", "g3"])
    np.testing.assert_array_equal(table["nearest_distance"], [1, np.nan, 1])
    assert table["nearest_id"].tolist() == ["g1", "", "g2"]
    alone = nearest_hashes(["0" * 16], [""], reference_ids=["g"])
    assert alone["nearest_distance"].isna().all()


@pytest.mark.parametrize("hashes", [[], [""], ["", ""], ["0" * 16], ["", "0" * 16]])
def test_nothing_is_a_duplicate_of_nothing(hashes):
    table = near_duplicates(hashes, bits=64, ids=[str(place) for place in range(len(hashes))])
    assert len(table) == len(hashes)
    assert table["nearest_distance"].isna().all()
    assert (table["duplicate_of"] == "").all()


@pytest.mark.parametrize(
    ("hashes", "options", "message"),
    [
        (["0x00000000000000"], {"bits": 4, "ids": ["a"]}, "hashes must each be 16 hexadecimal digits or empty, got '0"),
        (["ff"], {"bits": 4, "ids": ["a"]}, "16 hexadecimal digits or empty, got 'ff'"),
        (["0" * 16], {"bits": 65, "ids": ["a"]}, "bits must be between 0 and 64, got 65"),
        (["0" * 16], {"bits": 4, "ids": ["a", "b"]}, "ids must be one a hash, got 2 for 1"),
        (["0" * 16] * 2, {"bits": 4, "ids": ["a", "a"]}, "ids must be distinct and not empty"),
    ],
)  # fmt: skip
def test_bad_hashes_are_named(hashes, options, message):
    with pytest.raises(ValueError, match=message):
        near_duplicates(hashes, **options)
