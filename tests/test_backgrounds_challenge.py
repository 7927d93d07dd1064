"""The challenge on made-up classifiers whose every answer is known."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from d3s_utils.backgrounds_challenge import (
    Backgrounds,
    Foregrounds,
    background_gap,
    challenge_accuracy,
    challenge_sets,
    challenge_table,
    variant_accuracy,
    with_published_rule,
)
from d3s_utils.challenge_figures import draw_controlled_gap, draw_variant_accuracy, turned_sheet, variant_sheet
from d3s_utils.image_sets import read_in9
from d3s_utils.in9_variants import VARIANTS, make_variants, paste, write_variants
from d3s_utils.intervals import clustered_wilson, paired_difference, wilson
from d3s_utils.taxonomy import IN9, imagenet_class, in9_of_logits

SIDE = 8
CLASSES = ("dog", "bird", "fish")


def sets(per_class: int = 4, *, backgrounds_per_class: int = 10):
    """Foregrounds and backgrounds of one grey each.

    The object's grey is its strength; a background's grey in red is its strength, in green its class.
    """
    random = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[2:6, 2:6] = 255
    ids, classes, pictures = [], [], []
    for superclass in CLASSES:
        for number in range(per_class):
            ids.append(f"{superclass}-{number}")
            classes.append(superclass)
            pictures.append(
                np.full((SIDE, SIDE, 3), (random.integers(100, 255), IN9.index(superclass), number), np.uint8)
            )
    foregrounds = Foregrounds(ids, classes, pictures, [mask] * len(ids))
    ids, classes, pictures = [], [], []
    for superclass in CLASSES:
        for number in range(backgrounds_per_class):
            ids.append(f"{superclass}-behind-{number}")
            classes.append(superclass)
            pictures.append(np.full((SIDE, SIDE, 3), (random.integers(0, 210), IN9.index(superclass), 0), np.uint8))
    return foregrounds, Backgrounds(ids, classes, pictures)


def stronger(batch: np.ndarray) -> np.ndarray:
    """Name the class of the object (its middle pixel) or, if that one is stronger, of the background (a corner)."""
    front, behind = batch[:, SIDE // 2, SIDE // 2], batch[:, 0, 0]
    return np.where(behind[:, 0] > front[:, 0], behind[:, 1], front[:, 1]).astype(int)


def brute_force(foregrounds, backgrounds, classify, *, own_class=False, turned_when="wrong") -> dict[str, set[str]]:
    """Every background that turns each foreground, one picture at a time."""
    turning = {}
    for name, truth, picture, mask in zip(
        foregrounds.ids, foregrounds.superclasses, foregrounds.pictures, foregrounds.masks, strict=True
    ):
        turning[name] = set()
        for other, behind, pixels in zip(backgrounds.ids, backgrounds.superclasses, backgrounds.pictures, strict=True):
            said = int(classify(paste(picture, mask, pixels)[None])[0])
            said = IN9[said] if said >= 0 else ""
            wanted = said != truth if turned_when == "wrong" else said == behind != truth
            if wanted and (own_class or behind != truth):
                turning[name].add(other)
    return turning


def run(foregrounds, backgrounds, classify=stronger, **options) -> pd.DataFrame:
    options = {"seed": 0, "progress": False} | options
    return challenge_accuracy(foregrounds, backgrounds, {"made-up": classify}, **options)


def moody(batch: np.ndarray) -> np.ndarray:
    """Answers anything, -1 included, but the same picture always alike: told by all of its pixels."""
    numbers = batch.reshape(len(batch), -1).astype(int) @ (np.arange(batch[0].size) % 17 + 1)
    return np.where(numbers % 23 == 0, numbers % 7 - 1, batch[:, SIDE // 2, SIDE // 2, 1])


@pytest.mark.parametrize("classify", [stronger, moody])
@pytest.mark.parametrize("own_class", [False, True])
@pytest.mark.parametrize("turned_when", ["wrong", "background"])
def test_stopping_early_finds_what_brute_force_finds(classify, own_class, turned_when):
    foregrounds, backgrounds = sets()
    rules = {"own_class": own_class, "turned_when": turned_when}
    turning = brute_force(foregrounds, backgrounds, classify, **rules)
    found = run(foregrounds, backgrounds, classify, **rules)
    assert list(found.foreground_id) == list(foregrounds.ids)
    assert list(found.robust) == [not turning[name] for name in foregrounds.ids]
    assert found.robust.any()
    assert not found.robust.all()
    for line in found.itertuples():
        assert line.turned_by in turning[line.foreground_id] if not line.robust else line.turned_by == ""
    assert set(found.backgrounds_available) == {30 if own_class else 20}
    assert (found.backgrounds_tested[found.robust] == found.backgrounds_available[found.robust]).all()


def test_the_strongest_background_decides():
    foregrounds, backgrounds = sets()
    found = run(foregrounds, backgrounds).set_index("foreground_id")
    strength = {
        name: int(picture[0, 0, 0]) for name, picture in zip(backgrounds.ids, backgrounds.pictures, strict=True)
    }
    for name, truth, picture in zip(foregrounds.ids, foregrounds.superclasses, foregrounds.pictures, strict=True):
        others = [strength[b] for b, c in zip(backgrounds.ids, backgrounds.superclasses, strict=True) if c != truth]
        assert found.robust[name] == (max(others) <= picture[0, 0, 0])
        if not found.robust[name]:
            assert strength[found.turned_by[name]] > picture[0, 0, 0]
            assert found.predicted_superclass[name] == found.background_superclass[name] != truth


def test_the_outcome_does_not_hang_on_batches_or_order():
    foregrounds, backgrounds = sets()
    first = run(foregrounds, backgrounds, moody, batch_size=64)
    assert first.backgrounds_tested.nunique() > 3
    sizes = []

    def counting(batch):
        sizes.append(len(batch))
        return moody(batch)

    for batch_size in (1, 3, 7, 1000):
        sizes.clear()
        pd.testing.assert_frame_equal(run(foregrounds, backgrounds, counting, batch_size=batch_size), first)
        assert max(sizes) <= batch_size
        if batch_size == 1:  # no picture is looked at in vain
            assert sum(sizes) == first.backgrounds_tested.sum()
    order, other = np.random.default_rng(1).permutation(12), np.random.default_rng(2).permutation(30)
    shuffled = run(
        Foregrounds(*([part[i] for i in order] for part in vars(foregrounds).values())),
        Backgrounds(*([part[i] for i in other] for part in vars(backgrounds).values())),
        moody,
        batch_size=5,
    )
    by_id = [table.sort_values("foreground_id", ignore_index=True) for table in (first, shuffled)]
    pd.testing.assert_frame_equal(*by_id)
    seeds = [run(foregrounds, backgrounds, moody, seed=seed) for seed in (0, 1)]
    assert list(seeds[0].backgrounds_tested) != list(seeds[1].backgrounds_tested)
    assert list(seeds[0].robust) == list(seeds[1].robust)


def test_a_limit_gives_an_upper_bound_that_falls_to_the_full_value():
    foregrounds, backgrounds = sets(per_class=20)
    full = run(foregrounds, backgrounds)
    before = np.ones(60, bool)
    shares = []
    for limit in (1, 2, 4, 8, 20, 99):
        found = run(foregrounds, backgrounds, limit=limit)
        assert not (found.robust & ~before).any()  # what was turned once stays turned
        assert (full.robust & ~found.robust).sum() == 0
        assert found.backgrounds_tested.max() <= limit
        before = found.robust
        (row,) = challenge_table(found).to_dict("records")
        assert row["upper_bound"] == (limit < 20)
        shares.append(row["value"])
    assert shares[0] > shares[-1] == full.robust.mean()
    pd.testing.assert_frame_equal(found, full)


def test_each_foreground_meets_backgrounds_of_its_own_choice():
    found = run(*sets(per_class=20), lambda batch: np.full(len(batch), -1), limit=1)
    dogs = found[found.superclass == "dog"].turned_by  # each is turned by the first that it meets
    assert dogs.nunique() > 8


def test_the_table_of_the_challenge():
    foregrounds, backgrounds = sets()
    truth_teller = {"blind": lambda batch: np.full(len(batch), "dog"), "never": lambda batch: np.full(len(batch), -1),
                    "object": lambda batch: batch[:, 4, 4, 1].astype(int)}  # fmt: skip
    found = challenge_accuracy(foregrounds, backgrounds, truth_teller, seed=0, progress=False)
    table = challenge_table(found).set_index("model")
    assert list(table.index) == ["blind", "never", "object"]
    assert list(table.value) == [pytest.approx(4 / 12), 0, 1]
    assert list(table.turned) == [8, 12, 0]
    assert vars(wilson(4, 12)) == table.loc["blind", ["value", "low", "high", "n"]].to_dict()
    assert table.mean_backgrounds_tested["object"] == 20
    assert table.mean_backgrounds_tested["never"] == 1
    assert not table.upper_bound.any()
    said = found[found.model == "never"].predicted_superclass
    assert set(said) == {""}
    with pytest.raises(ValueError, match=r"outcomes must have rows"):
        challenge_table(found.head(0))
    with pytest.raises(ValueError, match=r"without \['robust'\]"):
        challenge_table(found.drop(columns="robust"))


def test_progress_goes_to_stdout(capsys):
    run(*sets(), progress=True)
    out, err = capsys.readouterr()
    assert "challenge made-up: 100%" in out
    assert "12/12" in out
    assert err == ""


def test_the_challenge_of_a_plan_uses_tiled_backgrounds():
    foregrounds, _ = sets()
    plan = make_variants(foregrounds.pictures, foregrounds.masks, foregrounds.superclasses, seed=0, ids=foregrounds.ids)
    front, behind = challenge_sets(plan)
    assert list(front.ids) == list(behind.ids) == list(foregrounds.ids)
    for pixels, picture in zip(behind.pictures, foregrounds.pictures, strict=True):
        np.testing.assert_array_equal(pixels, picture)  # each is of one colour, so its background shows that everywhere
    found = run(front, behind)
    assert not found.robust.all()
    assert set(found.backgrounds_available) == {8}
    assert set(run(front, behind, own_class=True).backgrounds_available) == {12}


def test_what_cannot_be_challenged_says_why():
    foregrounds, backgrounds = sets()
    with pytest.raises(ValueError, match=r"limit must be at least 1, or None for all backgrounds, got 0"):
        run(foregrounds, backgrounds, limit=0)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        run(foregrounds, backgrounds, batch_size=0)
    with pytest.raises(ValueError, match=r"turned_when must be one of wrong, background, got 'ever'"):
        run(foregrounds, backgrounds, turned_when="ever")
    with pytest.raises(ValueError, match=r"'made-up' must answer with shape \(12,\)"):
        run(foregrounds, backgrounds, lambda batch: np.zeros((len(batch), 9)), batch_size=12)
    with pytest.raises(ValueError, match=r"must answer with -1 to 8, got \[9"):
        run(foregrounds, backgrounds, lambda batch: np.full(len(batch), 9))
    with pytest.raises(ValueError, match=r"must answer with dog.*got 'cat'"):
        run(foregrounds, backgrounds, lambda batch: np.full(len(batch), "cat"))
    with pytest.raises(ValueError, match="at least one model"):
        challenge_accuracy(foregrounds, backgrounds, {}, seed=0)
    dogs = Backgrounds(backgrounds.ids[:10], backgrounds.superclasses[:10], backgrounds.pictures[:10])
    with pytest.raises(ValueError, match="another class than 'dog' for 'dog-0'"):
        run(foregrounds, dogs)
    with pytest.raises(ValueError, match=r"backgrounds.pictures must be one for each of 30 ids, got 29"):
        Backgrounds(backgrounds.ids, backgrounds.superclasses, backgrounds.pictures[1:])
    with pytest.raises(ValueError, match="all different, got 2, 1 different"):
        Backgrounds(["a", "a"], ["dog", "dog"], backgrounds.pictures[:2])
    with pytest.raises(ValueError, match="got 'cat'"):
        Backgrounds(["a"], ["cat"], backgrounds.pictures[:1])
    with pytest.raises(ValueError, match="foregrounds must be of one size"):
        Foregrounds(["a", "b"], ["dog"] * 2, [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)],
                    foregrounds.masks[:2])  # fmt: skip
    with pytest.raises(ValueError, match="mask of a must mark an object"):
        Foregrounds(["a"], ["dog"], foregrounds.pictures[:1], [np.zeros((8, 8), np.uint8)])


def answers(*, foregrounds: int = 60, repeats: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for model, gap in (("one", 0.2), ("two", 0.0)):
        for place in range(foregrounds):
            ease = random.random()
            for variant in ("mixed_rand", "original", "mixed_same"):
                easier = {"mixed_rand": 0.2, "original": 0.45, "mixed_same": 0.2 + gap}[variant]
                for _ in range(repeats):
                    rows.append((model, variant, f"f{place}", float(ease < 0.4 + easier)))
    return pd.DataFrame(rows, columns=["model", "variant", "picture_id", "in9_right"])


def test_accuracy_of_each_variant_with_its_interval():
    table = answers()
    found = variant_accuracy(table)
    assert list(found.model) == ["one"] * 3 + ["two"] * 3
    assert list(found.variant[:3]) == ["original", "mixed_same", "mixed_rand"]  # the paper's order
    part = table[(table.model == "one") & (table.variant == "mixed_rand")].in9_right
    expected = wilson(int(part.sum()), 60)
    assert found.loc[2, ["value", "low", "high", "n"]].to_dict() == vars(expected)
    thrice = answers(repeats=3).rename(columns={"picture_id": "foreground_id"})
    clustered = variant_accuracy(thrice)
    part = thrice[(thrice.model == "one") & (thrice.variant == "mixed_rand")]
    expected = clustered_wilson(part.in9_right, part.foreground_id)
    assert clustered.loc[2, ["value", "low", "high", "n"]].to_dict() == vars(expected)
    assert list(clustered.foregrounds) == [60] * 6
    # Three copies say no more than one.
    assert clustered.high[2] - clustered.low[2] == pytest.approx(found.high[2] - found.low[2], rel=0.05)


def test_the_published_rule_wants_a_class_that_has_a_superclass():
    lion, banana, goldfish = (imagenet_class(name).index for name in ("lion", "banana", "goldfish"))
    scores = pd.DataFrame({"prediction": [lion, banana, goldfish, lion], "in9": ["carnivore"] * 3 + [""],
                           "in9_right": [1.0, 1.0, 0.0, np.nan]})  # fmt: skip
    found = with_published_rule(scores)
    assert found["in9_of_1000"].tolist()[:3] == [1.0, 0.0, 0.0]
    assert np.isnan(found["in9_of_1000"][3]), "nobody knows the truth"
    assert found["in9_right"].tolist()[:3] == [1.0, 1.0, 0.0], "the milder rule keeps its column"
    assert "in9_of_1000" not in scores
    of_nine = scores.assign(prediction=[1000 + IN9.index(name) for name in ("carnivore", "carnivore", "fish", "fish")])
    assert with_published_rule(of_nine)["in9_of_1000"].tolist()[:3] == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="none called prediction"):
        with_published_rule(scores.drop(columns="prediction"))


def test_what_is_right_by_the_published_rule_is_right_by_the_milder_one():
    logits, truth = np.random.default_rng(0).normal(size=(3000, 1000)), np.random.default_rng(1).choice(IN9, 3000)
    milder = (np.array(IN9)[in9_of_logits(logits)] == truth).astype(float)
    scores = pd.DataFrame({"prediction": logits.argmax(1), "in9": truth, "in9_right": milder})
    found = with_published_rule(scores)
    assert (found["in9_of_1000"] <= found["in9_right"]).all()
    share = found["in9_of_1000"].sum() / found["in9_right"].sum()
    assert share == pytest.approx(0.37, abs=0.08), "370 of 1000 classes have a superclass"
    of_both = found.assign(model="random", variant="original", foreground_id=range(3000))
    both = [variant_accuracy(of_both, measure=rule).iloc[0] for rule in ("in9", "in9_of_1000")]
    assert [row["measure"] for row in both] == ["in9", "in9_of_1000"]
    assert [row["value"] for row in both] == [found["in9_right"].mean(), found["in9_of_1000"].mean()]


def test_the_gap_is_paired_by_foreground():
    table = answers().sample(frac=1, random_state=0)
    found = background_gap(table).set_index("model")
    means = table.groupby(["model", "variant"]).in9_right.mean()
    assert found.value["one"] == pytest.approx(means["one", "mixed_same"] - means["one", "mixed_rand"])
    assert found.mixed_same["one"] == means["one", "mixed_same"]
    assert found.low["one"] > 0
    assert found.value["two"] == 0  # the same foregrounds right in both
    assert found.high["two"] - found.low["two"] < 0.1
    assert list(found.n) == [60, 60]
    wide = table[table.model == "one"].pivot(index="picture_id", columns="variant", values="in9_right")
    expected = paired_difference(wide["mixed_same"], wide["mixed_rand"], groups=wide.index)
    assert found.loc["one", ["value", "low", "high"]].tolist() == [expected.value, expected.low, expected.high]
    with pytest.raises(ValueError, match="mixed_same and mixed_rand for 'one', got 0, 60"):
        background_gap(table[table.variant != "mixed_same"])
    lonely = table[(table.variant != "mixed_same") | (table.picture_id != "f7")]
    with pytest.raises(ValueError, match="such as 'f7'"):
        background_gap(lonely)


@pytest.mark.parametrize("measure", [variant_accuracy, background_gap])
def test_answers_that_are_none_are_refused(measure):
    table = answers(foregrounds=3)
    with pytest.raises(ValueError, match="table must have rows"):
        measure(table.head(0))
    with pytest.raises(ValueError, match=r"columns \['in9_right'\]"):
        measure(table.drop(columns="in9_right"))
    with pytest.raises(ValueError, match=r"variant must be one of original.*got 'mixed'"):
        measure(table.replace("original", "mixed"))
    table.loc[2, "in9_right"] = np.nan
    with pytest.raises(ValueError, match=r"in9_right must be 1.0 or 0.0 in every row, got np.float64\(nan\)"):
        measure(table)


def test_the_figure_of_accuracies_shows_the_table():
    found = variant_accuracy(answers())
    figure, ax = plt.subplots()
    assert draw_variant_accuracy(found, ax, title="backgrounds count") is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["original", "mixed same", "mixed rand"]
    drawn = [container.lines[0].get_xdata().tolist() for container in ax.containers]
    assert drawn == [pytest.approx((found.value[found.model == m] * 100).tolist()) for m in ("one", "two")]
    ends = [segment[:, 0] for segment in ax.containers[0].lines[2][0].get_segments()]
    assert ends[1].tolist() == pytest.approx([found.low[1] * 100, found.high[1] * 100])
    assert ax.get_xlabel() == "ImageNet-9, best of the 370 (% of images)"
    with pytest.raises(ValueError, match="once, got 12 rows"):
        draw_variant_accuracy(pd.concat([found, found]), ax, title="")
    plt.close(figure)


def test_the_figure_of_the_gap_shows_all_three_parts():
    rows = [
        ("one", "raw", 0.3, 0.2, 0.4), ("one", "control", 0.1, 0.0, 0.2), ("one", "difference", 0.2, 0.05, 0.35),
        ("two", "raw", 0.25, 0.1, 0.4), ("two", "control", 0.2, 0.1, 0.3), ("two", "difference", 0.05, -0.1, 0.2),
    ]  # fmt: skip
    gaps = pd.DataFrame(rows, columns=["model", "part", "value", "low", "high"])
    figure, ax = plt.subplots()
    assert draw_controlled_gap(gaps.sample(frac=1, random_state=0).sort_values("model"), ax, title="") is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["own home", "another class's home", "difference"]
    drawn = [container.lines[0].get_xdata().tolist() for container in ax.containers]
    assert drawn == [pytest.approx([30, 10, 20]), pytest.approx([25, 20, 5])]
    ends = [segment[:, 0].tolist() for segment in ax.containers[1].lines[2][0].get_segments()]
    assert ends[2] == pytest.approx([-10, 20])
    with pytest.raises(ValueError, match="once, got 12 rows"):
        draw_controlled_gap(pd.concat([gaps, gaps]), ax, title="")
    plt.close(figure)


def test_the_sheets_show_what_they_say(tmp_path):
    foregrounds, backgrounds = sets()
    plan = make_variants(foregrounds.pictures, foregrounds.masks, foregrounds.superclasses, seed=0, ids=foregrounds.ids)
    write_variants(tmp_path, plan, progress=False)
    figure = variant_sheet(read_in9(tmp_path), title="all variants", cell_pixels=24)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASSES)
    assert [label.get_text() for label in ax.get_xticklabels()] == [name.replace("_", " ") for name in VARIANTS]
    sheet = np.asarray(ax.images[0].get_array())
    middles = [sheet[round(ax.get_yticks()[1]), round(x)].tolist() for x in ax.get_xticks()]
    own = foregrounds.pictures[4][0, 0].tolist()
    assert middles == [own, [0, 0, 0], own, [0, 0, 0], own, own, own, own]
    plt.close(figure)
    found = run(foregrounds, backgrounds)
    figure = turned_sheet(found, foregrounds, backgrounds, title="turned", number=2, cell_pixels=24)
    ax = figure.axes[0]
    sheet = np.asarray(ax.images[0].get_array())
    turned = found[~found.robust].drop_duplicates("superclass").head(2)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{t.superclass} on {t.background_superclass}\nmade-up: {t.predicted_superclass}" for t in turned.itertuples()
    ]
    first = turned.iloc[0]
    x, y = (round(value) for value in (ax.get_xticks()[2], ax.get_yticks()[0]))
    front = foregrounds.pictures[foregrounds.ids.index(first.foreground_id)][0, 0]
    behind = backgrounds.pictures[backgrounds.ids.index(first.turned_by)][0, 0]
    assert sheet[y, x].tolist() == front.tolist()
    assert sheet[y - 10, x - 10].tolist() == behind.tolist()
    with pytest.raises(ValueError, match="a foreground that was turned"):
        turned_sheet(found[found.robust], foregrounds, backgrounds, title="")
    plt.close("all")
