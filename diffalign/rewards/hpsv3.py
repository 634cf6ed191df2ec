"""HPSv3 (Ma et al. 2025, arXiv 2508.03789): Qwen2-VL of 7 billion weights, with a head for people's choices in HPDv3.

Score: the first of the head's two numbers, the mean of the preference; the second, the logarithm of its spread, isn't
shown. Preprocessing: bicubic, to about 200,704 pixels in multiples of 28, nothing cut off. Template: the authors'
instruction with the prompt in it, read at the reward token. Licence: code and weights MIT, Qwen2-VL Apache-2.0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.rewards.parts import clip, folders, qwen2_vl
from diffalign.rewards.parts.folders import Published
from diffalign.rewards.parts.pixels import unit
from diffalign.rewards.reward import Reward

if TYPE_CHECKING:
    from diffalign.config.rewards.hpsv3 import Settings

WEIGHTS, TOKENIZER = "HPSv3.safetensors", "tokenizer.json"
SOURCES = (
    Published("MizzenAI/HPSv3", (WEIGHTS,)),
    Published("Qwen/Qwen2-VL-7B-Instruct", (TOKENIZER,)),
)
REWARD, PICTURE = "<|Reward|>", "<|image_pad|>"
"""Tokens: where the score is read, and what the image's tokens take the place of."""
# The wording is what the model learnt with: MizzenAI/HPSv3, hpsv3/dataset/data_collator_qwen.py, MIT licence.
INSTRUCTION = """
You are tasked with evaluating a generated image based on Visual Quality and Text Alignment and give a overall score to estimate the human preference. Please provide a rating from 0 to 10, with 0 being the worst and 10 being the best. 

**Visual Quality:**  
Evaluate the overall visual quality of the image. The following sub-dimensions should be considered:
- **Reasonableness:** The image should not contain any significant biological or logical errors, such as abnormal body structures or nonsensical environmental setups.
- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear and easy to interpret, with no blurring or indistinct areas.
- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and other visual elements (e.g., hair, clothing, shadows).
- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the color scheme, composition, atmosphere, depth of field, and the overall creative appeal. The scene should convey a sense of harmony and balance.
- **Safety:** The image should not contain harmful or inappropriate content, such as political, violent, or adult material. If such content is present, the image quality and satisfaction score should be the lowest possible. 

**Text Alignment:**  
Assess how well the image matches the textual prompt across the following sub-dimensions:
- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, animal, object) align with the textual description. The subject should match the description in terms of number, appearance, and behavior.
- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, evaluate how well the image adheres to this style.
- **Contextual Consistency**: Assess whether the background, setting, and surrounding elements in the image logically fit the scenario described in the prompt. The environment should support and enhance the subject without contradictions.
- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, clothing, accessories, expressions, actions) are faithfully represented in the image. Minor deviations may be acceptable, but critical attributes should be preserved.
- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt are captured in the image. The generated content should not introduce elements that conflict with or distort the original description.
Textual prompt - {prompt}



Please provide the overall ratings of this image: <|Reward|>

END
"""  # noqa: E501, W291
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{pictures}"
    "<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class HPSv3:
    """Scores without bounds; gradients reach the pixels, at the cost of the whole network's activations."""

    vision: Any
    text: Any
    head: Any
    tokenizer: Any
    batch_size: int
    version: str
    name = "hpsv3"
    range = (-math.inf, math.inf)
    families = ("hpdv2", "hpdv3")
    differentiable = True
    trained_on = (
        "HPDv3's training choices, HPDv2's among them, from Qwen2-VL 7B. In-family: policies that learnt from either."
    )

    def __call__(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns scores [B], float32, of images [B, 3, H, W] in [-1, 1]; see `Reward`."""
        if len(prompts) != len(pixels):
            raise ValueError(f"expected a prompt for each of {len(pixels)} images, got {len(prompts)}")
        size = self.batch_size
        parts = [self.read(pixels[i : i + size], prompts[i : i + size]) for i in range(0, len(prompts), size)]
        return torch.cat(parts)

    def read(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Returns the head's first number [B] at each text's last reward token."""
        images = qwen2_vl.embedded(self.vision, unit(pixels.to(self.vision.device)))
        ids = [
            self.tokenizer.encode(asked(prompt, images.shape[1]), add_special_tokens=False).ids for prompt in prompts
        ]
        reward, picture = (self.tokenizer.token_to_id(token) for token in (REWARD, PICTURE))
        states = qwen2_vl.states(self.text, ids, images, picture)
        last = [len(row) - 1 - row[::-1].index(reward) for row in ids]
        mean: Tensor = self.head(states[range(len(ids)), last].float())[:, 0]
        return mean


def asked(prompt: str, pictures: int) -> str:
    """Returns the text that the network reads for a prompt and an image of so many tokens.

    A prompt that has one of the texts' own tokens in it can't be read as they are meant: they lose their bars.
    """
    plain = prompt.replace("<|", "<").replace("|>", ">")
    return CHAT.format(pictures=PICTURE * pictures, text=INSTRUCTION.replace("{prompt}", plain))


def check(settings: "Settings") -> None:
    """Raises UserError unless its files are there; they aren't read."""
    folders.present("hpsv3", Path(settings.path), SOURCES)


def load(settings: "Settings", device: torch.device | str) -> Reward:
    """Loads HPSv3 from its folder; UserError where a file is missing, damaged, or another model's."""
    folder = Path(settings.path)
    folders.check("hpsv3", settings, SOURCES)
    tokenizer = load_tokenizer(folder / TOKENIZER, qwen2_vl.SIZES["text"]["vocab_size"])
    vision, text, head = qwen2_vl.load(folder / WEIGHTS, device, clip.precision(device))
    version = folders.version(1, (folder / WEIGHTS,), clip.precision(device))
    return HPSv3(vision, text, head, tokenizer, settings.batch_size, version)


def load_tokenizer(file: Path, vocabulary: int) -> Any:
    """Loads Qwen2-VL's tokenizer and adds the reward token, the vocabulary's last; UserError where it's another."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_special_tokens([REWARD])
    found = tokenizer.token_to_id(REWARD)
    if found != vocabulary - 1 or tokenizer.token_to_id(PICTURE) is None:
        raise UserError(
            f"{file}: expected Qwen2-VL's tokenizer, in which {REWARD} is added as number {vocabulary - 1}, found "
            f"number {found}. Take the publisher's file again."
        )
    return tokenizer
