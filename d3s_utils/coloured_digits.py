"""Handwritten digits in front of a coloured background: data whose mutual information can be counted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from d3s_utils.randomness import derive_seed, numpy_generator

COLOURS = (  # Petroff 2021, "Accessible color sequences for data visualization", arXiv:2107.02270
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
DIGIT_COUNT = 10


@dataclass(frozen=True)
class ColouredDigits:
    """Pictures of digits (the foreground) on a colour (the background), and where they come from.

    Attributes:
        images: Shape (n, 8, 8, 3), float32 in [0, 1].
        digits: The foreground's labels 0 to 9, shape (n,), int64.
        colours: The background's labels 0, 1, …, shape (n,), int64: the right ones.
        joint: The distribution that the labels were drawn from, shape (10, colours), summing to 1.
    """

    images: np.ndarray
    digits: np.ndarray
    colours: np.ndarray
    joint: np.ndarray

    @property
    def features(self) -> np.ndarray:
        """The pixels as a matrix of shape (n, 192), float32."""
        return self.images.reshape(len(self.images), -1)


def coloured_digits(
    *,
    seed: int,
    correlation: float = 0.0,
    test_correlation: float | None = None,
    colour_count: int = 10,
    colour_noise: float = 0.1,
    test_share: float = 0.4,
) -> tuple[ColouredDigits, ColouredDigits]:
    """Return scikit-learn's digits on coloured backgrounds, a training and a held-out part.

    A digit's ink is white and covers the background as far as it is opaque, as a mask's alpha does in D3S.

    Args:
        seed: Of the split, the colours and their noise.
        correlation: 0, where the colour is drawn blindly, to 1, where it is the digit's own (digit modulo
            `colour_count`); between, the share of pictures whose colour is not left to chance.
        test_correlation: Of the held-out part; as in training where None.
        colour_count: Number of colours, 2 to 10.
        colour_noise: Standard deviation of a picture's own shade, in each of red, green and blue.
        test_share: Share of the 1,797 digits that are held out.

    Raises:
        ValueError: If an option is out of its range.
    """
    test_correlation = correlation if test_correlation is None else test_correlation
    for name, value in (("correlation", correlation), ("test_correlation", test_correlation)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")
    if not 2 <= colour_count <= len(COLOURS):
        raise ValueError(f"colour_count must be between 2 and {len(COLOURS)}, got {colour_count}")
    if colour_noise < 0:
        raise ValueError(f"colour_noise must be at least 0, got {colour_noise}")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got {test_share}")
    ink, digits = load_digits(return_X_y=True)
    parts = train_test_split(
        ink.reshape(-1, 8, 8) / 16, digits, test_size=test_share, stratify=digits,
        random_state=derive_seed(seed, "digits") % 2**32,
    )  # fmt: skip
    options = {"colour_count": colour_count, "colour_noise": colour_noise}
    return (
        _coloured(parts[0], parts[2], correlation, generator=numpy_generator(seed, "training colours"), **options),
        _coloured(parts[1], parts[3], test_correlation, generator=numpy_generator(seed, "test colours"), **options),
    )


def label_distribution(digit_shares: ArrayLike, *, correlation: float, colour_count: int) -> np.ndarray:
    """Return the joint distribution of digit and colour, shape (10, colour_count).

    P(digit, colour) = P(digit) x (correlation x [colour is the digit's own] + (1 - correlation) / colour_count).

    Args:
        digit_shares: P(digit), shape (10,).
    """
    own = np.arange(DIGIT_COUNT)[:, None] % colour_count == np.arange(colour_count)
    return np.asarray(digit_shares)[:, None] * (correlation * own + (1 - correlation) / colour_count)


def quantised_colour(images: ArrayLike, *, levels: int = 3) -> np.ndarray:
    """Return a feature of few values: the mean red, green and blue of a picture's corners, each cut into levels.

    The corners hold next to no ink, so this is a background feature; being a table of at most `levels` ** 3 rows
    against a label, its mutual information with any label can be counted.

    Args:
        images: Shape (n, 8, 8, 3), in [0, 1].
        levels: Equal steps of [0, 1], at least 2.

    Returns:
        Whole numbers 0 … `levels` - 1, float32, shape (n, 3).

    Raises:
        ValueError: If the shape or `levels` does not fit.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must have shape (n, height, width, 3), got {images.shape}")
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
    return np.clip(np.floor(corners * levels), 0, levels - 1).astype(np.float32)


def cell_numbers(quantised: ArrayLike) -> np.ndarray:
    """Return one whole number for each row of a quantised feature (n, width): equal rows share it, shape (n,)."""
    return np.unique(np.asarray(quantised), axis=0, return_inverse=True)[1].reshape(-1)


def dithered(quantised: ArrayLike, *, seed: int) -> np.ndarray:
    """Return a quantised feature spread evenly over its cells: continuous, and as informative as it was.

    The cell can be read off by rounding down, so mutual information with a label is exactly that of the cells; yet no
    two rows are equal, as nearest neighbours need it.

    Args:
        quantised: Whole numbers, shape (n, width).

    Returns:
        float64, shape (n, width), each entry in [q, q + 1).
    """
    quantised = np.asarray(quantised, dtype=float)
    return quantised + numpy_generator(seed, "dither").random(quantised.shape)


def _coloured(
    ink: np.ndarray,
    digits: np.ndarray,
    correlation: float,
    *,
    colour_count: int,
    colour_noise: float,
    generator: np.random.Generator,
) -> ColouredDigits:
    """Draw a colour for each digit and paint its ink (n, 8, 8), in [0, 1], over it."""
    chance = generator.integers(colour_count, size=len(digits))
    colours = np.where(generator.random(len(digits)) < correlation, digits % colour_count, chance)
    palette = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS]) / 255
    shades = palette[colours] + colour_noise * generator.standard_normal((len(digits), 3))
    backgrounds = np.clip(shades, 0, 1)[:, None, None]
    alpha = ink[..., None]
    shares = np.bincount(digits, minlength=DIGIT_COUNT) / len(digits)
    joint = label_distribution(shares, correlation=correlation, colour_count=colour_count)
    return ColouredDigits((alpha + (1 - alpha) * backgrounds).astype(np.float32), digits, colours, joint)
