"""How an export is loaded: lines to paste, for the terminal and for the model card."""

from dataclasses import dataclass

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Place:
    """An export's place: a folder or a repository on the hub, and the name of the layout's file in it.

    `pipeline` is stock diffusers' class; `base` the base model's folder or repository, whose config files a checkpoint
    lacks.
    """

    folder: str
    file: str
    pipeline: str
    base: str
    hub: bool = False

    @property
    def path(self) -> str:
        """Returns the file's path, or its address on the hub."""
        return (
            f"https://huggingface.co/{self.folder}/blob/main/{self.file}" if self.hub else f"{self.folder}/{self.file}"
        )


def lines(layout: str, place: Place) -> list[tuple[str, str]]:
    """Returns (program, what to paste or do) for a layout."""
    stem = place.file.rpartition(".")[0]
    if layout == "pipeline":
        return [("diffusers", f'pipeline = {place.pipeline}.from_pretrained("{place.folder}")')]
    if layout == "single-file":
        return [
            ("ComfyUI", f'copy {place.file} to models/checkpoints, node "Load Checkpoint"'),
            ("A1111", f"copy {place.file} to models/Stable-diffusion"),
            ("diffusers", f'pipeline = {place.pipeline}.from_single_file("{place.path}", config="{place.base}")'),
        ]
    if layout == "lora":
        return [
            ("diffusers", f'pipeline = {place.pipeline}.from_pretrained("{place.base}")'),
            ("diffusers", f'pipeline.load_lora_weights("{place.folder}", weight_name="{place.file}")'),
        ]
    return [
        ("ComfyUI", f'copy {place.file} to models/loras, node "Load LoRA", strength 1'),
        ("A1111", f"copy {place.file} to models/Lora, and write <lora:{stem}:1> in the prompt"),
    ]


def markdown(layout: str, place: Place) -> str:
    """Returns the lines as a list in Markdown."""
    return "\n".join(f"- {program}: `{text}`" for program, text in lines(layout, place))


def plain(layout: str, place: Place) -> str:
    """Returns the lines for a terminal, two spaces in front."""
    return "\n".join(f"  {program}: {text}" for program, text in lines(layout, place))
