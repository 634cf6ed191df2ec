"""Estimates of a training run's time, memory and disk space before it starts."""
