"""The text of each alarm, apart from what raises it (alarms.py): an edit of a word trains nothing again.

A text has `{value}` and `{threshold}` in it. It is shown on the screen, in MLflow and in the report, and is in no out
of a training.
"""

WORDS = {
    "winner_worse": (
        "the policy denoises held-out winners worse than its reference does, by {value:.2%} at least (with 95% "
        "confidence; threshold {threshold:.2%}). Its margin then grows because losers get worse faster: loss and "
        "accuracy can look fine while the images get worse. Lower lr, raise beta, set safeguard, or publish an earlier "
        "step (choose: probe)."
    ),
    "saturation": (
        "{value:.1%} of the held-out draws have a margin so large that they pull with less than a twentieth of their "
        "weight (threshold {threshold:.1%}): the policy has moved far from the reference for this beta, and what is "
        "left to learn from are the pairs it gets wrong. Lower lr or beta, or stop earlier."
    ),
    "divergence": (
        "the policy's denoising error on held-out images has grown by {value:.0%} of the reference's (threshold "
        "{threshold:.0%}), winners' and losers' together: it forgets how to denoise. Lower lr, or raise warmup_steps "
        "or beta."
    ),
    "reference_changed": (
        "the reference's errors at the same draws differ by {value:.2%} from those measured first (threshold "
        "{threshold:.2%}): its weights have moved (with LoRA: the network without its adapters isn't the init any "
        "more), so no change against it means anything. That's a fault: start anew from the init."
    ),
    "reward_spread": (
        "the rewards of the policy's own pictures differ {value:.0%} less than at the first probe (threshold "
        "{threshold:.0%}): pictures of a prompt have become alike, and little is left to learn from. Publish an "
        "earlier step, raise kl.weight, or lower lr."
    ),
    "clip_share": (
        "{value:.0%} of the moves that train have left the trust region (threshold {threshold:.0%}), and no longer do. "
        "Lower lr or rollout.updates, or widen clip."
    ),
    "kl": (
        "the policy's pull to its reference is {value:.3g} (threshold {threshold:.3g}): it has gone far from it. Raise "
        "kl.weight, lower lr, or publish an earlier step."
    ),
    "judge_falls": (
        "the reward rises while the judge, which isn't trained on, has fallen by {value:.2f} of its standard "
        "deviations (threshold {threshold:.2f}): the policy exploits the reward. Publish an earlier step (choose: "
        "probe), raise kl.weight, or add a reward."
    ),
}
"""By the alarm's name, as in `alarms.ALARMS`."""

NO_NUMBER = "the policy's denoising error on held-out images is no number any more. Lower lr, or raise warmup_steps."
"""The text of an alarm whose value isn't finite."""
