"""Rules that lead from noise to a picture, one file each; `sampler.py` has their protocol."""
