"""Says in a few lines for the terminal what the audits found."""

from diffalign.evaluation.audits.findings import Audit, Composition, Estimated, Flagged, Shift

SURE = 0.05
"""p values at or below it are pointed out."""


def text(audit: Audit) -> str:
    """Returns a line for each policy and filter, attribute, or comparison of rater groups."""
    lines = [*map(safety_line, audit.safety), *map(shift_line, audit.shifts), *map(group_line, audit.composition)]
    if audit.ungrouped:
        lines.append(f"audit: {len(audit.ungrouped)} raters fit no pattern of audit.rater_groups: left out")
    return "\n".join(lines) or "audit: nothing is asked for in params.yaml, under audit"


def safety_line(row: Flagged) -> str:
    """Says how many images were flagged."""
    missing = f"; {row.missing} couldn't be scored" if row.missing else ""
    return (
        f"{row.filter}, {row.set}: {row.policy} {row.flagged}, {row.baseline} {row.baseline_flagged} of {row.images} "
        f"images flagged; difference {interval(row.difference)}{missing}"
    )


def shift_line(row: Shift) -> str:
    """Says how far the distribution of an attribute moved."""
    sure = ": shifted" if row.p is not None and row.p <= SURE else ""
    return (
        f"{row.audit}, {row.set}: {row.policy} against {row.baseline} on {row.prompts} open prompts, total variation "
        f"{interval(row.distance)}{p_value(row.p)}{sure}"
    )


def group_line(row: Composition) -> str:
    """Says how often a policy or a judge agrees with each group of raters."""
    rates = ", ".join(f"{g.raters} {g.rate:.0%}" for g in row.groups if g.rate is not None)
    return f"{row.kind} {row.name} agrees with {rates or 'nobody'}; gap {interval(row.gap)}{p_value(row.p)}"


def interval(found: Estimated) -> str:
    """Returns a figure with its interval."""
    if found.value is None:
        return "unknown"
    bounds = "" if found.low is None or found.high is None else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:.3f}{bounds}"


def p_value(p: float | None) -> str:
    """Returns a p value as it's shown; nothing where there is none."""
    return "" if p is None else f", p {p:.3f}"
