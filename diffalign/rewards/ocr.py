"""Text rendering: how much of the words that the prompt quotes can be read in the image.

Score: 1 - edit distance / length, 0 to 1, Flow-GRPO's OCR reward (`parts/quoted.py`), with PP-OCRv6 as its reader, by
RapidOCR, where the authors have PaddleOCR. Preprocessing: RapidOCR's: 8-bit levels, short side to 736 at least, lines
read upright, those below a confidence of 0.5 left out. Licence: Apache-2.0, code and weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffalign.core import shipped
from diffalign.core.errors import UserError
from diffalign.core.shipped import Shipped
from diffalign.data.pixels import to_uint8
from diffalign.rewards.parts import quoted
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.ocr import Settings

FINDS = Shipped(
    package="rapidocr",
    version="3.10.0",
    file="rapidocr/models/PP-OCRv6_det_small.onnx",
    sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
)
READS = Shipped(
    package="rapidocr",
    version="3.10.0",
    file="rapidocr/models/PP-OCRv6_rec_small.onnx",
    sha256="6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
)
CONFIDENCE = 0.5
"""Below which a line that was read doesn't count: RapidOCR's and PaddleOCR's own threshold."""
Read = Callable[[NDArray[np.uint8]], str]
"""Reads an RGB image, uint8 [H, W, 3]: its lines, from top to bottom, one after the other."""


@dataclass(frozen=True)
class TextRendering:
    """Scores on a CPU, image by image, about a second each; NaN where the prompt quotes nothing."""

    read: Read
    name = "ocr"
    version = f"2-{FINDS.digest}-{READS.digest}"
    range = (0.0, 1.0)
    families = ("ocr",)
    differentiable = False
    trained_on = (
        "Baidu's images of printed and rendered text, Chinese and English. In-family: policies that learnt from an OCR "
        "reward. It knows nothing of the rest of the prompt: white paper with the word is perfect."
    )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float64, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        finite = pixels.isfinite().flatten(1).all(dim=1).tolist()
        images = to_uint8(pixels.nan_to_num())
        found = [
            quoted.agreement(wanted, self.read(image)) if wanted and known else float("nan")
            for image, wanted, known in zip(images, map(quoted.words, prompts), finite, strict=True)
        ]
        return torch.tensor(found, dtype=torch.float64, device=pixels.device)


def check(settings: "Settings") -> None:
    """Raises UserError unless its package is installed with the files that are expected."""
    for file in (FINDS, READS):
        shipped.path(file)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads the reader from the package's own files; UserError where it isn't installed. It needs no device."""
    return TextRendering(reader())


def reader() -> Read:
    """Loads PP-OCRv6, which is given its files, so that nothing is downloaded."""
    files = {"Det": str(shipped.path(FINDS)), "Rec": str(shipped.path(READS))}
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise UserError(f"rapidocr can't be imported: {error}. Install it whole: {shipped.EXTRA}") from error
    engine: Any = RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,
            "Global.text_score": CONFIDENCE,
            "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            **{f"{part}.model_path": file for part, file in files.items()},
        }
    )

    def read(image: NDArray[np.uint8]) -> str:
        return "".join(engine(np.ascontiguousarray(image[..., ::-1])).txts or ())  # it expects blue first

    return read
