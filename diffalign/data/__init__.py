"""Preference data: from raw rows to micro-batches."""
