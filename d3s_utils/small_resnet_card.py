"""The card of the small residual network: what it is for, what it was made from, how good it is, what was compared."""

from collections.abc import Mapping, Sequence

from d3s_utils.small_resnet_measures import PARTS

_COLUMNS = ("what", "parameters", "steps", "photos", "photos, balanced", "composites", "scenes")
_TRIED = (
    ("patches of 4 pixels first, wider; AdamW", 2128243, 2000, 0.546, 0.479, 0.463, 0.853),
    ("three convolutions first, as shipped; AdamW", 1954259, 2000, 0.568, 0.521, 0.466, 0.836),
    ("patches; AdamW; with the head that tells ImageNet classes apart", 2142418, 2000, 0.559, 0.479, 0.457, 0.856),
    ("the same, learning rate 0.005", 2142418, 2000, 0.559, 0.494, 0.470, 0.850),
    ("the same, and a head for scene classes", 2142418, 2000, 0.557, 0.488, 0.470, 0.844),
    ("patches; SGD; with the classes' head", 2142418, 2000, 0.575, 0.516, 0.470, 0.824),
    ("as shipped, but with TrivialAugment and CutMix", 1966418, 5000, 0.628, 0.584, 0.568, 0.836),
    ("**as shipped**: three convolutions; SGD; with the classes' head", 1966418, 5000, 0.676, 0.624, 0.604, 0.859),
)  # fmt: skip
COMPARED = [dict(zip(_COLUMNS, row, strict=True)) for row in _TRIED]


def card_text(card: Mapping) -> str:
    """Return the card as Markdown; every number in it is one of `card`'s."""
    training = card["training_photos"]
    return "\n\n".join(
        [
            "# small_resnet: a judge from outside the EfficientNet family",
            "A residual network with "
            f"{card['parameters']:,} parameters that sees an image at 64 pixels and answers with one of the nine "
            "ImageNet-9 superclasses and one of the ten backgrounds. It was trained from random weights, with no other "
            "network's help, on photos that the bundled diffusion model never saw. So what it says about generated "
            "images does not come from the network that shaped them.",
            "## What it is not",
            "It knows nine superclasses and no other, so it names one of them whatever it is shown. It sees 64 pixels. "
            f"It was trained on {training['objects']:,} photos of objects and {training['scenes']:,} of scenes, which "
            "is few: it is often wrong, and is meant as a second opinion beside the EfficientNet-Lites. Rain, caves "
            "and two thirds of the nights are made photometrically from photos, in training and in test, so what it "
            "knows of real rain, caves and nights was not measured.",
            "## Data",
            "Tiny-ImageNet photos of 42 classes (the superclass is the label) and of 21 scene classes (the labels are "
            "by the colour rules of `scene_mining`). Photos of split `judge` train it, those of split `test` measure "
            "it; split `generator`, which trained the diffusion model, is not used. ImageNet photos are for research.",
            "## Recipe",
            "```sh\npython -m d3s_utils.small_resnet_training --data ../shared/data\n```",
            f"{card['steps']:,} batches of {sum(card['sizes'])}: whole photos, scenes, and objects cut by their boxes "
            "and pasted on scenes. `card.json` holds all choices.",
            "## Accuracy on split `test`",
            "Share of images whose label comes first, with 95 % Wilson intervals. Balanced: the mean of the labels' "
            "recalls. The error of calibration is the expected one (15 bins). Scenes are random crops of few photos, "
            "which the intervals do not know.",
            _summary(card["test"]),
            *(
                f"### Recall: {PARTS[part]}\n\n{_recall(card['test'][part])}"
                for part in ("superclass/photos", "background/scenes")
            ),
            *(
                f"### Confusion: {PARTS[part]}\n\nRows are the truth.\n\n{_confusion(card['test'][part])}"
                for part in ("superclass/photos", "background/scenes")
            ),
            "## Calibration",
            "Each head's logits are divided by a temperature; the weights hold it already. It was fitted on every "
            "fourth photo of split `judge`, with a network that was trained likewise on the others.",
            _calibration(card["calibration"]),
            "## What was compared",
            "Accuracy on the quarter of the judge photos that was held out while experimenting (666 photos, as many "
            "composites, 660 scenes), by networks trained on the other three. A standard error is about 0.02. The "
            "shipped one was then trained for longer. A vision transformer was not compared.",
            _compared(card["compared"]),
        ]
    )


def _share(estimate: Mapping) -> str:
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _summary(parts: Mapping[str, Mapping]) -> str:
    header = ("head", "shown", "accuracy", "balanced", "error of calibration", "n")
    rows = [
        (
            part.split("/")[0],
            PARTS[part],
            _share(measured["accuracy"]),
            _share(measured["balanced_accuracy"]),
            f"{measured['calibration_error']:.3f}",
            measured["accuracy"]["n"],
        )
        for part, measured in ((part, parts[part]) for part in PARTS if part in parts)
    ]
    return _table(header, rows)


def _recall(measured: Mapping) -> str:
    recalls = ((name, measured["recall"][name]) for name in measured["labels"] if name in measured["recall"])
    rows = [(name, _share(recall), recall["n"]) for name, recall in recalls]
    return _table(("label", "recall", "n"), rows)


def _confusion(measured: Mapping) -> str:
    names = measured["labels"]
    rows = [(name, *counts) for name, counts in zip(names, measured["confusion"], strict=True)]
    return _table(("", *names), rows)


def _calibration(heads: Mapping[str, Mapping]) -> str:
    header = ("head", "temperature", "error before", "error after, same images", "n")
    rows = [
        (
            head,
            f"{found['temperature']:.2f}",
            f"{found['calibration_error_before']:.3f}",
            f"{found['calibration_error_after']:.3f}",
            found["n"],
        )
        for head, found in sorted(heads.items(), reverse=True)
    ]
    return _table(header, rows)


def _compared(rows: Sequence[Mapping]) -> str:
    header = list(COMPARED[0])
    written = [[f"{row[key]:.3f}" if isinstance(row[key], float) else row[key] for key in header] for row in rows]
    return _table(header, written)
