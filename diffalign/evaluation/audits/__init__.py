"""Audits of policies: what became unsafe, and whose preference was learned."""
