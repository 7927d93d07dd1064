"""The eight variants: every pixel by hand on small pictures, and choices, files and resumption."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import chisquare

from d3s_utils import in9_variants
from d3s_utils.in9_variants import (
    CLASS_FOLDERS,
    EXPLANATIONS,
    MIXED,
    VARIANTS,
    VariantError,
    background_keys,
    background_strip,
    draw_weights,
    fitted,
    make_variants,
    no_fg,
    object_box,
    object_mask_in_box,
    only_bg_b,
    only_bg_t,
    only_fg,
    paste,
    render_variant,
    usable_box,
    variant_files,
    write_variants,
)
from d3s_utils.masks import ellipse_mask
from d3s_utils.photos import PhotoError
from d3s_utils.taxonomy import IN9

SIX = np.arange(1, 37, dtype=np.uint8).reshape(6, 6)  # row by row 1 to 36, so that a value names its place


def coloured(grey: np.ndarray) -> np.ndarray:
    """Three different channels, so that one mixed up with another shows."""
    return np.stack([grey, grey + 40, grey + 80], -1).astype(np.uint8)


def square_mask(left: int, top: int, right: int, bottom: int, side: int = 6) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def test_names():
    assert VARIANTS == (
        "original", "only_bg_b", "only_bg_t", "no_fg", "only_fg", "mixed_same", "mixed_rand", "mixed_next",
    )  # fmt: skip
    assert set(EXPLANATIONS) == set(VARIANTS)
    assert list(CLASS_FOLDERS.values()) == [
        "00_dog", "01_bird", "02_wheeled vehicle", "03_reptile", "04_carnivore", "05_insect",
        "06_musical instrument", "07_primate", "08_fish",
    ]  # fmt: skip


def test_every_variant_of_a_two_by_two_object_by_hand():
    picture, mask = coloured(SIX), square_mask(1, 3, 3, 5)
    box_black = [
        [1, 2, 3, 4, 5, 6],
        [7, 8, 9, 10, 11, 12],
        [13, 14, 15, 16, 17, 18],
        [19, 0, 0, 22, 23, 24],
        [25, 0, 0, 28, 29, 30],
        [31, 32, 33, 34, 35, 36],
    ]
    # Above the box are 3 rows of 6 pixels, right of it 6 rows of 3, one area: above comes first. Rows 3 and 4 of the
    # tiled picture are rows 0 and 1 of the strip.
    box_tiled = [
        [1, 2, 3, 4, 5, 6],
        [7, 8, 9, 10, 11, 12],
        [13, 14, 15, 16, 17, 18],
        [19, 2, 3, 22, 23, 24],
        [25, 8, 9, 28, 29, 30],
        [31, 32, 33, 34, 35, 36],
    ]
    black = np.array(box_black, np.uint8)
    expected_black = np.where(black[..., None] == 0, 0, coloured(black))
    np.testing.assert_array_equal(only_bg_b(picture, mask), expected_black)
    np.testing.assert_array_equal(no_fg(picture, mask), expected_black)  # a square object fills its box
    np.testing.assert_array_equal(only_bg_t(picture, mask), coloured(np.array(box_tiled)))
    np.testing.assert_array_equal(only_fg(picture, mask), picture - expected_black)
    background = np.full((6, 6, 3), 200, np.uint8)
    pasted = paste(picture, mask, background)
    assert pasted[3, 1].tolist() == [20, 60, 100]
    assert pasted[4, 2].tolist() == [27, 67, 107]
    pasted[3:5, 1:3] = 200
    np.testing.assert_array_equal(pasted, background)
    np.testing.assert_array_equal(picture, coloured(SIX))  # nothing was changed in place


def test_silhouette_and_box_differ_where_the_object_is_not_a_square():
    mask = square_mask(2, 2, 4, 4)
    mask[2, 2] = 0
    picture = coloured(SIX)
    assert only_bg_b(picture, mask)[2, 2].tolist() == [0, 0, 0]
    assert no_fg(picture, mask)[2, 2].tolist() == picture[2, 2].tolist()
    assert only_fg(picture, mask)[2, 2].tolist() == [0, 0, 0]
    assert paste(picture, mask, np.full((6, 6, 3), 9, np.uint8))[2, 2].tolist() == [9, 9, 9]


@pytest.mark.parametrize(
    ("box", "strip"),
    [
        ((1, 3, 3, 5), (0, 0, 6, 3)),  # above and right have one area
        ((3, 1, 5, 5), (0, 0, 3, 6)),  # left
        ((1, 1, 3, 5), (3, 0, 6, 6)),  # right
        ((1, 1, 5, 3), (0, 3, 6, 6)),  # below
        ((2, 2, 4, 4), (0, 4, 6, 6)),  # all four have one area: below
        ((0, 2, 6, 3), (0, 3, 6, 6)),  # full width: only below and above are left
        ((3, 0, 4, 6), (0, 0, 3, 6)),  # full height
        ((0, 0, 2, 2), (0, 2, 6, 6)),  # in a corner
        ((2, 0, 3, 6), (3, 0, 6, 6)),
    ],
)
def test_the_strip_is_the_largest_beside_the_box(box, strip):
    assert background_strip(box, (6, 6)) == strip
    picture, mask = coloured(SIX), square_mask(*box)
    tiled = only_bg_t(picture, mask)
    left, top, right, bottom = strip
    tile = picture[top:bottom, left:right]
    everywhere = np.tile(tile, (6, 6, 1))[:6, :6]
    np.testing.assert_array_equal(tiled, np.where(mask[..., None] > 0, everywhere, picture))


def test_a_strip_narrower_than_the_box_is_repeated_from_the_corner():
    picture, mask = coloured(SIX), square_mask(0, 0, 6, 4)  # 2 rows are left, for 4
    rows = only_bg_t(picture, mask)[:, 0, 0].tolist()
    assert rows == [25, 31, 25, 31, 25, 31]
    wide = np.concatenate([picture, picture], axis=1)  # not a square: right of the box are 8 columns of 12
    mask = np.pad(square_mask(0, 0, 4, 6), ((0, 0), (0, 6)))
    np.testing.assert_array_equal(only_bg_t(wide, mask)[0, :, 0], [5, 6, 1, 2, 5, 6, 1, 2, 3, 4, 5, 6])


def test_soft_masks_blend_exactly():
    shares = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for value, behind in ((200, 90), (255, 0), (0, 255), (13, 14)):
        picture, background = (np.full((16, 16, 3), grey, np.uint8) for grey in (value, behind))
        expected = [[round((m * value + (255 - m) * behind) / 255) for m in range(16 * r, 16 * r + 16)]
                    for r in range(16)]  # fmt: skip
        np.testing.assert_array_equal(paste(picture, shares, background)[..., 1], expected)
        object_only = [[round(m * value / 255) for m in range(16 * r, 16 * r + 16)] for r in range(16)]
        np.testing.assert_array_equal(only_fg(picture, shares)[..., 2], object_only)
        np.testing.assert_array_equal(only_fg(picture, shares).astype(int) + no_fg(picture, shares), picture)


def test_no_soft_edge_is_left_outside_the_box():
    mask = square_mask(2, 2, 4, 4)
    mask[1, 3] = 1
    assert object_box(mask) == (2, 1, 4, 4)
    assert object_box(mask.T) == (1, 2, 4, 4)
    assert only_bg_b(coloured(SIX), mask)[1, 2:4].max() == 0


def test_a_usable_box_leaves_some_background():
    mask = square_mask(2, 2, 4, 4)
    assert usable_box(mask) == (2, 2, 4, 4)
    assert usable_box(mask, box=(1, 3, 3, 5)) == object_box(mask, box=(1, 3, 3, 5))
    assert usable_box(mask, box=(0, 0, 6, 5)) == (0, 0, 6, 5), "30 of 36 pixels are 83 %"
    with pytest.raises(VariantError, match=r"at most 80% of n1, got 83\.3%"):
        usable_box(mask, box=(0, 0, 6, 5), largest_box=0.8, name="n1")
    with pytest.raises(VariantError, match="must leave some background"):
        usable_box(mask, box=(0, 0, 6, 6))
    with pytest.raises(VariantError, match="is empty"):
        usable_box(np.zeros((6, 6), np.uint8))
    with pytest.raises(ValueError, match=r"largest_box must be in \(0, 1\], got 0"):
        usable_box(mask, largest_box=0)


def test_an_annotated_box_is_covered_with_the_mask():
    picture, mask = coloured(SIX), square_mask(2, 2, 4, 4)
    assert object_box(mask, box=(1, 3, 3, 5)) == (1, 2, 4, 5)
    assert object_box(mask, box=(3, 3, 3.6, 99)) == (2, 2, 4, 6)
    black = only_bg_b(picture, mask, box=(1, 3, 3, 5))
    assert (black[2:5, 1:4] == 0).all()
    assert (black > 0).all(-1).sum() == 36 - 9
    np.testing.assert_array_equal(
        only_bg_t(picture, mask, box=(1, 3, 3, 5)), only_bg_t(picture, square_mask(1, 2, 4, 5))
    )
    with pytest.raises(VariantError, match="box of n1: a box must overlap"):
        only_bg_b(picture, mask, box=(9, 0, 12, 3), name="n1")
    pictures, masks, superclasses, ids = a_set({"dog": 2, "bird": 2})
    pictures = [np.add(p, np.arange(8, dtype=np.uint8)[:, None, None]) for p in pictures]  # rows differ
    plan = make_variants(pictures, masks, superclasses, seed=0, ids=ids, boxes=[(1, 1, 5, 5), None, None, (0, 0, 3, 3)])
    assert plan.boxes == {"dog000": (1, 1, 5, 5), "dog001": (2, 2, 5, 5), "bird000": (2, 2, 5, 5),
                          "bird001": (0, 0, 5, 5)}  # fmt: skip
    assert render_variant(plan, 1)[1, 1].tolist() == [0, 0, 0]
    expected = only_bg_t(pictures[3], masks[3], box=(0, 0, 3, 3))
    (row,) = plan.table.index[(plan.table.picture_id == "bird000") & (plan.table.variant == "mixed_same")]
    np.testing.assert_array_equal(render_variant(plan, row), paste(pictures[2], masks[2], expected))
    with pytest.raises(ValueError, match="boxes must be one for each of 4 pictures, got 1"):
        make_variants(pictures, masks, superclasses, seed=0, boxes=[None])


def test_masks_without_object_or_background_are_named():
    picture = coloured(SIX)
    for make in (only_bg_b, only_bg_t, no_fg, only_fg, lambda *pair, name: paste(*pair, picture, name=name)):
        with pytest.raises(VariantError, match=r"mask of n1 must mark an object; it is empty"):
            make(picture, np.full((6, 6), 127, np.uint8), name="n1")
        with pytest.raises(ValueError, match=r"mask of n2 must have its picture's shape \(6, 6\), got \(5, 6\)"):
            make(picture, np.full((5, 6), 255, np.uint8), name="n2")
        with pytest.raises(ValueError, match="mask of n3 must be uint8"):
            make(picture, np.ones((6, 6), bool), name="n3")
        with pytest.raises(ValueError, match="picture must be uint8"):
            make(picture[..., 0], square_mask(1, 1, 2, 2), name="n4")
    full = np.full((6, 6), 255, np.uint8)
    with pytest.raises(VariantError, match="that of n5 fills its picture"):
        only_bg_t(picture, full, name="n5")
    corners = np.zeros((6, 6), np.uint8)
    corners[0, 0] = corners[5, 5] = 255  # a box that fills the picture with an object that does not
    with pytest.raises(VariantError, match="fills its picture"):
        only_bg_t(picture, corners)
    assert only_bg_b(picture, full).max() == 0
    np.testing.assert_array_equal(only_fg(picture, full), picture)
    np.testing.assert_array_equal(paste(picture, full, picture[::-1]), picture)


def test_a_background_of_another_size_is_cut_and_resized():
    halves = np.zeros((10, 40, 3), np.uint8)
    halves[:, 20:] = 255
    found = fitted(halves, (6, 6))  # its middle 10 x 10, half black and half white
    assert found.shape == (6, 6, 3)
    assert found[:, :2].max() < 30
    assert found[:, 4:].min() > 225
    assert fitted(found, (6, 6)) is found
    pasted = paste(coloured(SIX), square_mask(2, 2, 4, 4), halves)
    np.testing.assert_array_equal(pasted[0], found[0])
    with pytest.raises(ValueError, match="background must be uint8"):
        fitted(halves[..., 0], (6, 6))


def test_a_box_becomes_a_mask():
    rows, columns = np.mgrid[:96, :96] + 0.5
    inside = np.hypot(columns - 50, rows - 44) < 22
    noise = np.random.default_rng(0).normal(0, 10, (96, 96, 3))
    picture = np.clip(np.where(inside[..., None], [210, 60, 40], [60, 110, 190]) + noise, 0, 255).astype(np.uint8)
    mask, mode = object_mask_in_box(picture, (22, 16, 78, 72))
    assert mode == "grabcut"
    assert ((mask > 127) & inside).sum() / ((mask > 127) | inside).sum() > 0.93
    mask, mode = object_mask_in_box(np.full((40, 40, 3), 9, np.uint8), (5, 5, 25, 25))
    assert mode == "ellipse"
    np.testing.assert_array_equal(mask, ellipse_mask((40, 40), (5, 5, 25, 25)))
    with pytest.raises(PhotoError, match="overlap"):
        object_mask_in_box(picture, (100, 0, 120, 20))


def a_set(counts: dict[str, int], *, side: int = 8):
    """Pictures whose red channel of background tells the class and whose green channel tells the picture."""
    pictures, masks, superclasses, ids = [], [], [], []
    for superclass, count in counts.items():
        for number in range(count):
            picture = np.zeros((side, side, 3), np.uint8)
            picture[:] = (20 * IN9.index(superclass) + 10, number % 256, 100)
            mask = square_mask(2, 2, 5, 5, side)
            picture[mask > 0] = (255, number % 256, IN9.index(superclass))
            pictures.append(picture)
            masks.append(mask)
            superclasses.append(superclass)
            ids.append(f"{superclass.split()[0]}{number:03d}")
    return pictures, masks, superclasses, ids


def a_plan(counts: dict[str, int], *, seed: int = 0, **options):
    pictures, masks, superclasses, ids = a_set(counts)
    return make_variants(pictures, masks, superclasses, seed=seed, ids=ids, **options)


def test_every_picture_has_every_variant_and_a_fitting_background():
    plan = a_plan({"dog": 4, "bird": 3, "fish": 3})
    table = plan.table
    assert len(table) == 10 * 8
    assert list(table.variant[:8]) == list(VARIANTS)
    mixed = table[table.variant.isin(MIXED)]
    assert (mixed.background_id != mixed.picture_id).all()
    by_variant = dict(iter(table.groupby("variant")))
    assert (by_variant["mixed_same"].background_superclass == by_variant["mixed_same"].superclass).all()
    following = {"dog": "bird", "bird": "fish", "fish": "dog"}  # classes that are not there are passed over
    assert (by_variant["mixed_next"].background_superclass == by_variant["mixed_next"].superclass.map(following)).all()
    for name in ("original", "only_bg_b", "only_bg_t", "no_fg"):
        assert (by_variant[name].background_id == by_variant[name].picture_id).all()
    assert set(by_variant["only_fg"].background_id) == {""}
    of_id = dict(zip(plan.ids, plan.superclasses, strict=True))
    assert (mixed.background_id.map(of_id) == mixed.background_superclass).all()


def test_the_next_class_is_one_further_in_the_published_order():
    plan = a_plan(dict.fromkeys(IN9, 2), variants=["mixed_next"])
    following = plan.table.drop_duplicates("superclass").set_index("superclass").background_superclass
    assert [following[name] for name in IN9] == [*IN9[1:], IN9[0]]


def test_what_is_rendered_is_what_the_table_says():
    plan = a_plan({"dog": 3, "bird": 3})
    for row, line in enumerate(plan.table.itertuples()):
        picture = render_variant(plan, row)
        number, superclass = int(line.picture_id[-3:]), IN9.index(line.superclass)
        black_box = line.variant in ("only_bg_b", "no_fg")
        if line.variant == "only_bg_t":
            assert picture[3, 3].tolist() == [20 * superclass + 10, number, 100]
        else:
            assert picture[3, 3].tolist() == ([0, 0, 0] if black_box else [255, number, superclass])
        if line.variant == "only_fg":
            assert picture[0, 0].tolist() == [0, 0, 0]
        else:
            behind = IN9.index(line.background_superclass)
            assert picture[0, 0].tolist() == [20 * behind + 10, int(line.background_id[-3:]), 100]


def test_random_classes_are_uniform_and_so_are_the_pictures_within():
    table = a_plan({"dog": 600, "bird": 20, "fish": 200}, variants=["mixed_rand", "mixed_same"]).table
    rand = table[table.variant == "mixed_rand"]
    assert chisquare(rand.background_superclass.value_counts()).pvalue > 0.001  # though most pictures are dogs
    within = rand[rand.background_superclass == "bird"].background_id.value_counts()
    assert len(within) == 20
    assert chisquare(within).pvalue > 0.001
    own = (rand.background_superclass == rand.superclass).mean()
    assert 0.26 < own < 0.41  # the own class takes part like any other


def test_choices_hang_on_the_seed_and_not_on_the_order():
    pictures, masks, superclasses, ids = a_set({"dog": 12, "bird": 9, "insect": 7})
    plan = make_variants(pictures, masks, superclasses, seed=3, ids=ids)
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = make_variants(
        *([part[place] for place in order] for part in (pictures, masks, superclasses)),
        seed=3,
        ids=[ids[place] for place in order],
    )
    key = ["picture_id", "variant"]
    pd.testing.assert_frame_equal(
        plan.table.sort_values(key, ignore_index=True), shuffled.table.sort_values(key, ignore_index=True)
    )
    other = make_variants(pictures, masks, superclasses, seed=4, ids=ids).table
    mixed = plan.table.variant.isin(MIXED)
    assert (other.background_id[mixed] != plan.table.background_id[mixed]).mean() > 0.5


def test_one_picture_more_changes_a_choice_only_to_itself():
    pictures, masks, superclasses, ids = a_set({"dog": 41, "bird": 40})
    keep = [place for place, name in enumerate(ids) if name != "dog017"]
    names = ["mixed_same", "mixed_rand", "mixed_next"]
    full = make_variants(pictures, masks, superclasses, seed=1, ids=ids, variants=names).table
    less = make_variants(
        *([part[place] for place in keep] for part in (pictures, masks, superclasses)),
        seed=1,
        ids=[ids[place] for place in keep],
        variants=names,
    ).table
    both = less.merge(full, on=["picture_id", "variant"], suffixes=("_less", "_full"))
    changed = both[both.background_id_less != both.background_id_full]
    assert len(both) == 80 * 3
    assert 0 < len(changed) < 20
    assert set(changed.background_id_full) == {"dog017"}


def test_weights_are_an_order_that_others_do_not_disturb():
    ids = [f"b{i}" for i in range(50)]
    weights = draw_weights(background_keys(ids, seed=0), seed=0, names=("challenge", "f"))
    part = draw_weights(background_keys(ids[10:20], seed=0), seed=0, names=("challenge", "f"))
    np.testing.assert_array_equal(weights[10:20], part)
    firsts = [
        int(np.argmax(draw_weights(background_keys(ids[:5], seed=0), seed=0, names=("f", i)))) for i in range(2000)
    ]
    assert chisquare(np.bincount(firsts, minlength=5)).pvalue > 0.001


def test_pictures_are_read_only_when_they_are_rendered():
    pictures, masks, superclasses, ids = a_set({"dog": 3, "bird": 3})
    read = []

    class Reader(list):
        def __getitem__(self, place):
            read.append(place)
            return super().__getitem__(place)

    plan = make_variants(Reader(pictures), masks, superclasses, seed=0, ids=ids)
    assert read == []
    render_variant(plan, 0)
    assert read == [0]


def test_pictures_that_cannot_be_used_are_named_or_left_out():
    pictures, masks, superclasses, ids = a_set({"dog": 4, "bird": 4})
    masks[1], masks[5], masks[6] = np.zeros_like(masks[1]), np.full_like(masks[5], 255), square_mask(0, 0, 8, 7, 8) * 0
    masks[6][0, 0] = masks[6][7, 6] = 255  # a box of 56 of 64 pixels
    with pytest.raises(VariantError, match="mask of dog001 must mark an object"):
        make_variants(pictures, masks, superclasses, seed=0, ids=ids)
    plan = make_variants(pictures, masks, superclasses, seed=0, ids=ids, skip_unusable=True, largest_box=0.8)
    assert list(plan.skipped.picture_id) == ["dog001", "bird001", "bird002"]
    assert "at most 80% of bird002, got 87.5%" in plan.skipped.reason[2]
    assert not set(plan.skipped.picture_id) & ({*plan.table.picture_id} | {*plan.table.background_id})
    assert len(plan.table) == 5 * 8
    render_variant(plan, len(plan.table) - 1)
    kept = make_variants(pictures, masks, superclasses, seed=0, ids=ids, skip_unusable=True)
    assert list(kept.skipped.picture_id) == ["dog001", "bird001"]


def test_what_cannot_be_planned_says_why():
    pictures, masks, superclasses, ids = a_set({"dog": 2, "bird": 1})
    with pytest.raises(ValueError, match="masks must be one for each of 3 pictures, got 2"):
        make_variants(pictures, masks[:2], superclasses, seed=0)
    with pytest.raises(ValueError, match=r"superclasses must be of dog, bird.*got 'cat'"):
        make_variants(pictures, masks, ["dog", "dog", "cat"], seed=0)
    with pytest.raises(ValueError, match="ids must all be different, got 'a' 2 times"):
        make_variants(pictures, masks, superclasses, seed=0, ids=["a", "a", "b"])
    with pytest.raises(ValueError, match=r"variants must be of original.*mixed_up"):
        make_variants(pictures, masks, superclasses, seed=0, variants=["mixed_up"])
    with pytest.raises(ValueError, match="mixed_same must have another picture of 'bird' than 'bird000'"):
        make_variants(pictures, masks, superclasses, seed=0, ids=ids)
    with pytest.raises(ValueError, match="mixed_next must have pictures of two classes"):
        make_variants(pictures[:2], masks[:2], ["dog", "dog"], seed=0, variants=["mixed_next"])
    with pytest.raises(ValueError, match="largest_box"):
        make_variants(pictures, masks, superclasses, seed=0, largest_box=0)
    lonely = make_variants(pictures, masks, superclasses, seed=0, ids=ids, variants=["mixed_rand"]).table
    assert lonely.set_index("picture_id").background_superclass["bird000"] == "dog"  # its class has no other picture


def read_as_the_challenge_does(folder, variant):
    """(path, class number) of each picture, as an image folder numbers the classes."""
    classes = sorted(path.name for path in (folder / variant / "val").iterdir() if path.is_dir())
    return [(path, number) for number, name in enumerate(classes)
            for path in sorted((folder / variant / "val" / name).iterdir())]  # fmt: skip


def test_the_published_layout_and_back(tmp_path):
    plan = a_plan({"dog": 2, "wheeled vehicle": 3, "fish": 2})
    table = write_variants(tmp_path, plan, progress=False)
    assert table.written.all()
    assert "original/val/02_wheeled vehicle/wheeled001.png" in set(table.file)
    line = table[table.variant == "mixed_next"].iloc[-1]
    assert line.file == f"mixed_next/val/08_fish/fg_fish001_bg_{line.background_id}.png"
    for row, line in enumerate(table.itertuples()):
        with Image.open(tmp_path / line.file) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), render_variant(plan, row))
        mask = np.load(tmp_path / line.mask_file, allow_pickle=False)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, plan.masks[plan.places[line.picture_id]] > 127)
    for variant in VARIANTS:
        found = read_as_the_challenge_does(tmp_path, variant)
        assert [number for _, number in found] == [0, 0, 2, 2, 2, 8, 8]  # empty class folders keep the numbers
    # As challenge_eval.py goes from a mask to its picture and its background:
    for path, number in read_as_the_challenge_does(tmp_path, "fg_mask"):
        assert (tmp_path / "original" / "val" / CLASS_FOLDERS[IN9[number]] / path.name.replace("npy", "png")).is_file()
    assert not list(tmp_path.rglob("*.partial"))
    kept = pd.read_csv(tmp_path / "variants.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(kept, table.drop(columns="written"))


def test_the_authors_script_finds_its_originals(tmp_path):
    plan = a_plan({"dog": 2, "bird": 2}, variants=["original", "only_bg_t"])
    table = write_variants(tmp_path, plan, extension=".JPEG", progress=False)
    assert "original/val/00_dog/dog001.JPEG" in set(table.file)
    with Image.open(tmp_path / "original/val/00_dog/dog001.JPEG") as image:
        np.testing.assert_array_equal(np.asarray(image), plan.pictures[1])
    with pytest.raises(ValueError, match=r"extension must be one of \.png, \.JPEG, got '\.gif'"):
        variant_files(plan, extension=".gif")


def test_a_second_run_writes_what_is_missing_torn_or_changed(tmp_path):
    pictures, masks, superclasses, ids = a_set({"dog": 3, "bird": 3})

    def write():
        plan = make_variants(pictures, masks, superclasses, seed=0, ids=ids)
        return write_variants(tmp_path, plan, progress=False)

    table = write()
    times = {file: (tmp_path / file).stat().st_mtime_ns for file in (*table.file, *table.mask_file)}
    assert not write().written.any()
    assert times == {file: (tmp_path / file).stat().st_mtime_ns for file in times}
    (tmp_path / table.file[0]).unlink()
    (tmp_path / table.file[9]).write_bytes((tmp_path / table.file[9]).read_bytes()[:-4])
    (tmp_path / table.mask_file[0]).write_bytes(b"torn")
    again = write()
    assert list(again.index[again.written]) == [0, 9]
    assert np.load(tmp_path / table.mask_file[0]).sum() == 9
    pictures[4] = pictures[4].copy()
    pictures[4][0, 0] = 77  # everything that shows picture 4, and nothing else, is made again
    again = write()
    shows = (again.picture_id == ids[4]) | (again.background_id == ids[4])
    pd.testing.assert_series_equal(again.written, shows, check_names=False)


@pytest.mark.parametrize("broken", ["write_png", "replacing"])
def test_a_run_that_dies_leaves_whole_files_and_goes_on(tmp_path, monkeypatch, broken):
    plan = a_plan({"dog": 3, "bird": 3})
    calls, original = [], getattr(in9_variants, broken)

    class Killed(BaseException):
        pass

    def dying(path, second, **options):
        calls.append(path)
        if len(calls) != 4:
            return original(path, second, **options)
        if broken == "write_png":  # dies while the temporary file is written, within the real writer

            def half(self, content):
                with open(self, "wb") as file:
                    file.write(content[: len(content) // 2])
                raise Killed

            with monkeypatch.context() as patch:
                patch.setattr("pathlib.Path.write_bytes", half)
                return original(path, second, **options)
        second.write_bytes(b"half")
        with original(path, second):
            raise Killed

    monkeypatch.setattr(in9_variants, broken, dying)
    with pytest.raises(Killed):
        write_variants(tmp_path, plan, workers=1, progress=False)
    assert not calls[3].exists()
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "variants.csv").exists()
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            image.load()
    before = len(list(tmp_path.rglob("*.png")))
    monkeypatch.setattr(in9_variants, broken, original)
    table = write_variants(tmp_path, plan, progress=False)
    assert table.written.sum() == len(table) - before
    assert len(list(tmp_path.rglob("*.png"))) == len(table) == 48


def test_what_may_not_be_written_says_why(tmp_path):
    pictures, masks, superclasses, ids = a_set({"dog": 3, "bird": 3})
    for name in ("../dog", ".hidden", "n1/2", "a_bg_b", "", "a b"):
        plan = make_variants(pictures, masks, superclasses, seed=0, ids=[name, *ids[1:]])
        with pytest.raises(ValueError, match="ids must be letters"):
            write_variants(tmp_path, plan, progress=False)
    assert not list(tmp_path.iterdir())
    large = [np.zeros((9, 9, 3), np.uint8), *pictures[1:]], [square_mask(2, 2, 5, 5, 9), *masks[1:]]
    plan = make_variants(*large, superclasses, seed=0, ids=ids)
    with pytest.raises(ValueError, match=r"one size to be written, got \(h, w\) \[\(8, 8\), \(9, 9\)\]"):
        write_variants(tmp_path, plan, progress=False)
    assert render_variant(plan, 5).shape == (9, 9, 3)  # rendering fits the background
    write_variants(tmp_path, make_variants(pictures, masks, superclasses, seed=0, ids=ids), progress=False)
    other = make_variants(pictures, masks, superclasses, seed=5, ids=ids)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"files of another in .*, such as mixed_"):
        write_variants(tmp_path, other, progress=False)
    assert sorted(tmp_path.rglob("*")) == before
