"""Win rates, intervals and the implicit reward."""
