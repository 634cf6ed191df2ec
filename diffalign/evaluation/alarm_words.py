"""The text of each alarm of evaluation, apart from what raises it: an edit of a word measures nothing again."""

from diffalign.evaluation.results import Alarm

WORDS = {
    "hacking": (
        "a held-out judge's win rate is above one half by {figure:.0%} of what the in-family judge's is (threshold "
        "{threshold:.0%}): the policy learnt what that judge likes, not what it stands for. Look at the images; stop "
        "earlier, raise beta, or ask people."
    ),
    "diversity": (
        "images are {figure:.2f} times as far from each other as the baseline's (threshold {threshold:g}): the policy "
        "makes fewer kinds of images. Stop earlier, or raise beta."
    ),
    "vendi": (
        "there are {figure:.2f} times as many different images as of the baseline (Vendi score, threshold "
        "{threshold:g}): the policy makes fewer kinds of images. Stop earlier, or raise beta."
    ),
    "alignment": (
        "another image's prompt costs {figure:.0%} of what it costs the baseline's images (threshold {threshold:.0%}): "
        "the policy heeds its prompts less. Look whether prompts were dropped in training, or the guidance is too low."
    ),
    "saturation": (
        "colours are {figure:+.2f} robust standard deviations from the baseline's (threshold {threshold:g}): more or "
        "less saturated. Judges like strong colours; people may not. Look at the images."
    ),
    "contrast": "contrast is {figure:+.2f} robust standard deviations from the baseline's (threshold {threshold:g}).",
    "sharpness": (
        "sharpness is {figure:+.2f} robust standard deviations from the baseline's (threshold {threshold:g}): blurred "
        "or noisy images. A fine pattern may please a judge and nobody else."
    ),
    "tint": (
        "the images' colour cast is {figure:.1f} levels of 255 from the baseline's (threshold {threshold:g}): one tint "
        "over all of them, such as a white background turned mint. Look at the images; stop earlier, or raise beta."
    ),
    "copies": (
        "{figure:.0%} of the images are nearer to a training image than 99% of held-out images are (threshold "
        "{threshold:.0%}): the policy repeats what it was trained on."
    ),
}
"""By the alarm's name, as in `alarms.BEYOND`."""


def text(alarm: Alarm) -> str:
    """Returns an alarm in words, with what it was measured by; ValueError for one that has no figure."""
    if alarm.figure is None:
        raise ValueError(f"text: expected an alarm with a figure, got {alarm.name} of {alarm.policy}")
    return f"{WORDS[alarm.name].format(figure=alarm.figure, threshold=alarm.threshold)} Measured by {alarm.by}."
