"""Filters that flag comparisons whose prompt or images nobody should learn from."""
