"""A table of judged pictures that verdicts can be counted on by hand."""

import numpy as np
import pandas as pd

from d3s_utils.validation import Thresholds

LENIENT = Thresholds(foreground=0.3, background=0.5, unsafe=0.8)


def judged_table():
    """Five pictures: all well, foreground saved by its probability, wrong background, unsafe, unreadable."""
    return pd.DataFrame(
        {
            "image_id": list("abcde"),
            "foreground_id": ["f", "f", "g", "g", "g"],
            "class_name": "lion",
            "in9": "carnivore",
            "background": ["snow", "cave", "snow", "cave", "cave"],
            "foreground_prediction": ["carnivore", "dog", "carnivore", "carnivore", ""],
            "foreground_probability": [0.9, 0.4, 0.8, 0.7, np.nan],
            "foreground_named": [True, False, True, True, False],
            "background_prediction": ["snow", "cave", "sand", "cave", ""],
            "background_probability": [0.8, 0.6, 0.1, 0.9, np.nan],
            "background_named": [True, True, False, True, False],
            "unsafe_score": [0.0, 0.1, 0.2, 0.8, np.nan],
            "unreadable": ["", "", "", "", "picture 'e.png' cannot be read: torn"],
        }
    )


def with_quality(table):
    return table.assign(
        clip_foreground_probability=[0.9, 0.2, 0.9, 0.9, np.nan], clip_background_probability=0.9,
        sharpness_outlier=[False, True, False, False, False], exposure_outlier=False,
        duplicate_of=["", "", "", "a", ""],
    )  # fmt: skip
