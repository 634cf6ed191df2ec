"""Names what `fetch` brings from the Hugging Face hub: repositories, the commits that are pinned, the files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NETWORK = ("config.json", "diffusion_pytorch_model.safetensors")


@dataclass(frozen=True)
class Pinned:
    """A part of a repository on the hub, and the folder it goes to.

    `revision` is a commit, or its first hexadecimal digits where no more were published; these are completed from the
    repository's history once, and the lock file keeps the commit. `patterns` names the wanted files, `limited` those of
    them that `limit` counts. `flat` puts all files into one folder, without the hub's subfolders.
    """

    repo: str
    kind: Literal["model", "dataset"]
    revision: str
    folder: Path
    patterns: tuple[str, ...]
    limited: str = ""
    flat: bool = False


def diffusers_files(encoders: int, denoiser: str) -> tuple[str, ...]:
    """Returns patterns of a model's configs and fp32 safetensors in diffusers' layout, for a number of CLIP encoders.

    Repositories also hold fp16 weights and those of other frameworks, which stay on the hub.
    """
    suffixes = ("", "_2")[:encoders]
    return (
        "model_index.json",
        "scheduler/*.json",
        *(f"tokenizer{suffix}/*.{kind}" for suffix in suffixes for kind in ("json", "txt")),
        *(f"text_encoder{suffix}/{file}" for suffix in suffixes for file in ("config.json", "model.safetensors")),
        *(f"{denoiser}/{file}" for file in NETWORK),
        *(f"vae/{file}" for file in NETWORK),
    )


# Pick-a-Pic's validation-* and test-* repeat the rows of the *_unique files, so they stay on the hub.
PICKAPIC = ("*train-*.parquet", "*validation_unique-*.parquet", "*test_unique-*.parquet")

PINNED = {
    "sd15": Pinned(
        repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
        kind="model",
        revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        folder=Path("models/base/sd15"),
        patterns=diffusers_files(1, "unet"),
    ),
    "sdxl": Pinned(
        repo="stabilityai/stable-diffusion-xl-base-1.0",
        kind="model",
        revision="462165984030d82259a11f4367a4eed129e94a7b",
        folder=Path("models/base/sdxl"),
        patterns=diffusers_files(2, "unet"),
    ),
    # Gated: its terms must be accepted first. T5 (text_encoder_3, tokenizer_3) stays on the hub: sd3 runs without it.
    "sd3": Pinned(
        repo="stabilityai/stable-diffusion-3-medium-diffusers",
        kind="model",
        revision="ea42f8cef0f178587cf766dc8129abd379c90671",
        folder=Path("models/base/sd3"),
        patterns=diffusers_files(2, "transformer"),
    ),
    # The authors' yuvalkirstain/pickapic_v2 left the hub in April 2025 (github.com/yuvalkirstain/PickScore, issue 36).
    # This is a community copy, at the revision of others' published results.
    "pickapic_v2": Pinned(
        repo="liuhuohuo2/pick-a-pic-v2",
        kind="dataset",
        revision="f602d48",
        folder=Path("data/raw/pickapic_v2"),
        patterns=PICKAPIC,
        limited="*train-*",
        flat=True,
    ),
    # The authors' own copy of v1, made for the paper's anonymous review.
    "pickapic_v1": Pinned(
        repo="pickapic-anonymous/pickapic_v1",
        kind="dataset",
        revision="8e69b58d729339cb7771133c70ee18b527fd4ae3",
        folder=Path("data/raw/pickapic_v1"),
        patterns=PICKAPIC,
        limited="*train-*",
        flat=True,
    ),
    # Prompt sets; diffalign/data/prompts/ reads them. GenEval's is on GitHub only.
    "parti": Pinned(
        repo="nateraw/parti-prompts",
        kind="dataset",
        revision="95bc9691e49f199d3e1be71c5bc50f4f299d089a",
        folder=Path("data/raw/prompts/parti"),
        patterns=("PartiPrompts.tsv",),
    ),
    "hpsv2_prompts": Pinned(
        repo="ymhao/HPDv2",
        kind="dataset",
        revision="fd163b223b6faf112eccafeabe2e31a0e950f177",
        folder=Path("data/raw/prompts/hpsv2"),
        patterns=tuple(f"benchmark/{style}.json" for style in ("anime", "concept-art", "paintings", "photo")),
        flat=True,
    ),
    "drawbench": Pinned(
        repo="ymhao/HPDv2",
        kind="dataset",
        revision="fd163b223b6faf112eccafeabe2e31a0e950f177",
        folder=Path("data/raw/prompts/drawbench"),
        patterns=("benchmark/drawbench.json",),
        flat=True,
    ),
    "pickapic_test": Pinned(
        repo="liuhuohuo2/pick-a-pic-v2",
        kind="dataset",
        revision="f602d48",
        folder=Path("data/raw/prompts/pickapic_test"),
        patterns=("*test_unique-*.parquet",),
        flat=True,
    ),
    # Preference data sets; diffalign/data/sources/ reads them, docs/data.md says what to know. Each commit was read in
    # public code or pages that used it; none of the sets was fetched whole by this project.
    "pickapic_webdataset": Pinned(
        repo="sayakpaul/pickapic_v2_webdataset",
        kind="dataset",
        revision="ad9594597d075e1915356a1e52a3199cb10ddeef",
        folder=Path("data/raw/pickapic_webdataset"),
        patterns=("*.tar",),
        limited="*.tar",
    ),
    "hpdv2": Pinned(
        repo="ymhao/HPDv2",
        kind="dataset",
        revision="fd163b223b6faf112eccafeabe2e31a0e950f177",
        folder=Path("data/raw/hpdv2"),
        patterns=("train.json", "test.json", "train.tar.gz", "test.tar.gz"),
    ),
    "hpdv3": Pinned(
        repo="MizzenAI/HPDv3",
        kind="dataset",
        revision="5ac4b5b5f2ef42c4613dec612473170b131552db",
        folder=Path("data/raw/hpdv3"),
        patterns=("train.json", "test.json", "images.tar.gz.*"),
    ),
    "imagereward_db": Pinned(
        repo="THUDM/ImageRewardDB",
        kind="dataset",
        revision="c493721e19e296eb615420036f2a2eed08412bb4",
        folder=Path("data/raw/imagereward_db"),
        patterns=("metadata-*.parquet", "images/*.zip"),
        limited="images/train/*.zip",
    ),
    "open_image_preferences": Pinned(
        repo="data-is-better-together/open-image-preferences-v1-binarized",
        kind="dataset",
        revision="421d9b4e11f22d576a15c14e38aaa4687748023f",
        folder=Path("data/raw/open_image_preferences"),
        patterns=("data/*.parquet",),
        limited="data/*.parquet",
    ),
    "rapidata_700k": Pinned(
        repo="Rapidata/700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3",
        kind="dataset",
        revision="51af5fc8a36f9df10c433fefdc08dbae4aed79ad",
        folder=Path("data/raw/rapidata_700k"),
        patterns=("data/*.parquet",),
        limited="data/*.parquet",
    ),
    "rapidata_4o": Pinned(
        repo="Rapidata/OpenAI-4o_t2i_human_preference",
        kind="dataset",
        revision="9fafb39b4bb3bac6e2fbabd13503fa1199fde400",
        folder=Path("data/raw/rapidata_4o"),
        patterns=("data/*.parquet",),
        limited="data/*.parquet",
    ),
}
