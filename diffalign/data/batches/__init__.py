"""From comparisons to micro-batches."""
