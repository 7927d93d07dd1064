"""An imitation from a run's files: what is cut out and how, what its control keeps and changes, and what is written."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_outputs import tiny_settings, write_tiny_outputs

from d3s_utils.controlled_gap import controlled_gap
from d3s_utils.image_sets import read_in9
from d3s_utils.imitated_challenge import imitate, read_mixed, read_validated, write_imitation
from d3s_utils.in9_imitation import TooFewImagesError
from d3s_utils.in9_variants import VARIANTS, render_variant

HOMES = {"fish": "water", "carnivore": "snow", "primate": "forest"}


@pytest.fixture
def run(tmp_path):
    """A run of three superclasses whose objects were pasted into the left upper three quarters of each image."""
    settings = tiny_settings(
        tmp_path, classes=["goldfish", "lion", "orangutan"], guides_per_class_train=2, guides_per_class_val=2,
        backgrounds=["water", "snow", "forest"],
    )  # fmt: skip
    write_tiny_outputs(settings)
    change(settings, lambda table: table.assign(width=48, height=48))
    return settings


def change(run, how):
    path = run.folder("03_validation") / "validated.parquet"
    how(pd.read_parquet(path)).to_parquet(path)


def answers(imitation, is_right) -> pd.DataFrame:
    """Return the answers of a made-up model to all mixed images.

    Args:
        is_right: Takes a superclass, the background that the object was cut from, and the background behind it now.
    """
    rows = []
    for control, plan in [(0, imitation.plan), *imitation.mixed]:
        of = imitation.cut_outs[imitation.cut_outs["control"] == control].set_index("foreground_id")["background"]
        for line in plan.table[plan.table["variant"].isin(["mixed_same", "mixed_rand"])].itertuples():
            right = is_right(line.superclass, of[line.picture_id], of[line.background_id])
            rows.append((control, line.picture_id, line.variant, float(right)))
    return pd.DataFrame(rows, columns=["control", "foreground_id", "variant", "in9_right"]).assign(model="made up")


def test_a_model_that_sees_rims_alone_has_a_gap_and_nothing_beyond_its_control(run):
    table = answers(imitate(run.run_folder, HOMES, limit=12, seed=0), lambda superclass, rim, behind: rim == behind)
    found = controlled_gap(table).set_index("part")["value"]
    assert found["raw"] > 0.3
    assert found["control"] == pytest.approx(found["raw"])
    assert found["difference"] == pytest.approx(0, abs=1e-12)


def test_a_model_that_sees_the_tie_has_it_all_beyond_its_control(run):
    made = imitate(run.run_folder, HOMES, limit=12, seed=0)
    found = controlled_gap(answers(made, lambda superclass, rim, behind: behind == HOMES[superclass]))
    found = found.set_index("part")
    assert found.loc["raw", "mixed_same"] == 1
    assert found.loc["control", "mixed_same"] == 0, "no class is at home there"
    assert found.loc["difference", "value"] > found.loc["raw", "value"] > 0.3


def test_objects_at_home_become_variants_and_the_same_objects_stand_elsewhere(run):
    made = imitate(run.run_folder, HOMES, limit=9, seed=0, controls=2, draws=2)
    assert set(made.plan.table["variant"]) == set(VARIANTS)
    at_home = made.cut_outs[made.cut_outs["control"] == 0]
    assert at_home.groupby("in9")["background"].unique().str[0].to_dict() == HOMES
    assert at_home["in9"].value_counts().to_dict() == dict.fromkeys(HOMES, 3)
    validated = read_validated(run.run_folder).set_index("image_id")
    for row in made.cut_outs.itertuples():
        source = validated.loc[row.image_id]
        assert (row.foreground_id, row.background) == (source["foreground_id"], source["background"])
    assert [control for control, _ in made.mixed] == [0, 1, 1, 2, 2]
    for control, plan in made.mixed:
        assert set(plan.table["picture_id"]) == set(at_home["foreground_id"]), "all are valid everywhere"
        assert set(plan.table["variant"]) == {"mixed_same", "mixed_rand"}
        rows = made.cut_outs[made.cut_outs["control"] == control]
        assert (rows["background"] == rows["in9"].map(HOMES)).all() == (control == 0)
    again = imitate(run.run_folder, HOMES, limit=9, seed=0, controls=2, draws=2)
    assert [plan.table.equals(same.table) for (_, plan), (_, same) in zip(made.mixed, again.mixed, strict=True)]


def test_draws_differ_and_the_first_control_draw_is_that_at_home(run):
    made = imitate(run.run_folder, HOMES, limit=12, seed=0, controls=1, draws=2)
    behind = [made.plan.table, *(plan.table for _, plan in made.mixed)]
    behind = [rows[rows["variant"] == "mixed_rand"].set_index("picture_id")["background_id"] for rows in behind]
    behind = [rows.sort_index() for rows in behind]
    home, second, control, second_control = behind
    assert home.equals(control), "what differs is the image of the same two foregrounds, and nothing else"
    assert second.equals(second_control)
    assert not home.equals(second)


def test_what_is_valid_at_home_only_has_no_control(run):
    change(run, lambda table: table.assign(keep=(table["background"] == table["in9"].map(HOMES))))
    made = imitate(run.run_folder, HOMES, limit=12, seed=0)
    assert made.mixed == ()
    assert set(made.cut_outs["control"]) == {0}
    assert read_mixed(write_imitation(run.run_folder / "imitation", made)[1]) is None


def test_an_object_is_paired_where_it_is_valid(run):
    lost = read_validated(run.run_folder).query("in9 == 'fish'")["foreground_id"].iloc[0]

    def keep(table):
        return table.assign(keep=(table["foreground_id"] != lost) | (table["background"] == "water"))

    change(run, keep)
    made = imitate(run.run_folder, HOMES, limit=12, seed=0)
    assert lost in set(made.plan.table["picture_id"])
    for _, plan in made.mixed:
        assert lost not in set(plan.table["picture_id"])


def test_a_mask_file_is_taken_as_it_is(run):
    drawn = np.zeros((64, 64), np.uint8)
    drawn[20:40, 10:50] = 255
    (run.run_folder / "01_compositing" / "masks").mkdir()
    Image.fromarray(drawn).save(run.run_folder / "01_compositing" / "masks" / "mask.png")
    file = "01_compositing/masks/mask.png"
    lions = "carnivore"
    change(run, lambda t: t.assign(mask_file=t["in9"].map({lions: file}), left=0, top=0, width=64, height=64))
    change(run, lambda t: t.assign(width=t["width"].where(t["in9"] == lions, 48)))
    made = imitate(run.run_folder, HOMES, limit=12, seed=0)
    kinds = made.cut_outs.groupby("in9")["mask"].unique()
    assert set(kinds[lions]) == {"file"}, "a mask as large as the image would be refused as a box"
    assert "file" not in {*kinds["fish"], *kinds["primate"]}
    name = made.cut_outs.query("in9 == @lions")["foreground_id"].iloc[0]
    assert np.array_equal(made.plan.masks[made.plan.places[name]], drawn)
    assert made.plan.boxes[name] == (10, 20, 50, 40)


def test_images_that_cannot_be_used_are_named_and_left_out(run):
    change(run, lambda t: t.assign(width=t["width"].where(t["in9"] != "fish", 64), height=64))
    made = imitate(run.run_folder, HOMES, limit=12, seed=0)
    assert set(made.plan.table["superclass"]) == {"carnivore", "primate"}
    assert len(made.skipped) == 4 * 1 + 4 * 2 - 8, "only the fish at home are cut out: no permutation moves them"
    assert made.skipped["reason"].str.contains("fills its picture").all()
    change(run, lambda t: t.assign(left=np.nan))
    with pytest.raises(TooFewImagesError, match="got 0 images of 0"):
        imitate(run.run_folder, HOMES, limit=12, seed=0)


def test_what_is_asked_wrongly_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="run notebook 03_validation first"):
        imitate(tmp_path / "nothing", HOMES, limit=4, seed=0)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        imitate(run.run_folder, HOMES, limit=4, seed=0, draws=0)
    with pytest.raises(ValueError, match="homes must be of"):
        imitate(run.run_folder, {"cat": "grass"}, limit=4, seed=0)


def test_what_is_written_is_read_back_by_control(run, tmp_path):
    made = imitate(run.run_folder, HOMES, limit=6, seed=0, controls=1, draws=1)
    home, places = write_imitation(tmp_path / "variants", made)
    assert set(read_in9(home).table["variant"]) == set(VARIANTS)
    mixed = read_mixed(places)
    assert mixed.table["control"].tolist() == [1] * 12
    assert mixed.table["picture_id"].is_unique
    row = made.mixed[0][1].table.iloc[0]
    is_it = (mixed.table["variant"] == row["variant"]) & (mixed.table["foreground_id"] == row["picture_id"])
    (place,) = mixed.table.index[is_it]
    with Image.open(mixed.pictures[place]) as written:
        assert np.array_equal(np.asarray(written), render_variant(made.mixed[0][1], 0))


def test_another_imitation_takes_the_place_of_the_last_one(run, tmp_path):
    first, _ = write_imitation(tmp_path / "variants", imitate(run.run_folder, HOMES, limit=6, seed=0))
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*.png")}
    again, _ = write_imitation(tmp_path / "variants", imitate(run.run_folder, HOMES, limit=6, seed=0))
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*.png")} == times, "the same imitation stays"
    other, _ = write_imitation(tmp_path / "variants", imitate(run.run_folder, HOMES, limit=6, seed=1))
    assert list((tmp_path / "variants").iterdir()) == [other.parent] != [first.parent]
