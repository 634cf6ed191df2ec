"""The maths of diffusion and of the losses; torch, numpy and scipy only."""
