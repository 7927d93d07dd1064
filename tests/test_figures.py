"""The colours can be told apart, and a contact sheet puts every picture under its own captions."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from skimage.color import rgb2lab

from d3s_utils.figures import BACKGROUND_COLORS, captioned_sheet, contact_sheet, picture_grid, save_figure
from d3s_utils.taxonomy import BACKGROUNDS

SIGHT = {  # Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
    "common": np.eye(3),
    "no red cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


@pytest.mark.parametrize("sight", SIGHT)
def test_backgrounds_colours_differ_to_every_eye(sight):
    srgb = np.array([to_rgb(color) for color in BACKGROUND_COLORS.values()])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ SIGHT[sight].T, 0, 1)
    seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(seen[None])[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    assert distances.min() > 7  # one just-noticeable difference is about 2.3


def test_there_is_a_colour_for_each_background_in_the_papers_order():
    assert list(BACKGROUND_COLORS) == list(BACKGROUNDS)


@pytest.fixture
def table(tmp_path):
    lines = []
    for i, class_name in enumerate(["lion", "organ"]):
        for j, background in enumerate(["snow", "grass"]):
            for layer, value in (("guide", 10), ("result", 100)):
                picture = np.full((16, 16, 3), value + 40 * i + 20 * j, np.uint8)
                Image.fromarray(picture).save(tmp_path / f"{layer}-{i}{j}.png")
            lines.append(
                {
                    "class_name": class_name,
                    "background": background,
                    "guide_file": f"guide-{i}{j}.png",
                    "file": f"result-{i}{j}.png",
                }
            )
    return pd.DataFrame(lines)


def test_contact_sheet_stands_each_guide_above_its_result(table, tmp_path):
    figure = contact_sheet(table.iloc[:3], root=tmp_path, title="Two classes, two backgrounds", cell_pixels=48)
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["grass", "snow"]  # the paper's order
    assert [label.get_text() for label in ax.get_yticklabels()] == ["lion", "organ"]
    sheet = np.asarray(ax.images[0].get_array())
    rows, columns = [round(y) for y in ax.get_yticks()], [round(x) for x in ax.get_xticks()]
    seen = [[(int(sheet[y - 20, x, 0]), int(sheet[y + 20, x, 0])) for x in columns] for y in rows]
    assert seen == [[(30, 120), (10, 100)], [(225, 225), (50, 140)]]  # the cell that has no picture is grey
    plt.close(figure)


def test_contact_sheet_names_the_missing_column(table, tmp_path):
    with pytest.raises(ValueError, match="guide_file"):
        contact_sheet(table.drop(columns="guide_file"), root=tmp_path, title="none")


def test_picture_grid_and_saved_figure(tmp_path):
    cells = [[np.zeros((8, 8, 3), np.uint8), None]]
    figure = picture_grid(cells, row_names=["a"], column_names=["b", "c"], title="t")
    path = save_figure(figure, tmp_path / "folder" / "figure.png")
    assert Image.open(path).size[0] > 100
    assert Image.open(path).text["Title"] == "t"
    assert Image.open(save_figure(figure, tmp_path / "sheet.jpg")).format == "JPEG"
    with pytest.raises(ValueError, match=r"path must end in \.png or \.jpg, got 'figure\.pdf'"):
        save_figure(figure, tmp_path / "figure.pdf")
    plt.close(figure)


def test_captioned_pictures_have_their_words_below(tmp_path):
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
    table = pd.DataFrame({"file": [f"{n}.png" for n in range(3)], "caption": ["a lion\n→ cat", "b", "c " * 40]})
    figure = captioned_sheet(table, root=tmp_path, title="three pictures", columns=2)
    assert figure.get_suptitle() == "three pictures"
    assert len(figure.axes) == 4
    assert [ax.get_xlabel().split("\n")[0] for ax in figure.axes[:2]] == ["a lion", "b"]
    assert "\n" in figure.axes[2].get_xlabel(), "long captions are wrapped"
    assert np.asarray(figure.axes[1].images[0].get_array())[0, 0].tolist() == [60, 60, 60]
    assert not figure.axes[3].images
    with pytest.raises(ValueError, match="table must have a picture"):
        captioned_sheet(table.iloc[:0], root=tmp_path, title="none")
    plt.close(figure)
