"""Probes of a training and their alarms, as pure functions."""
