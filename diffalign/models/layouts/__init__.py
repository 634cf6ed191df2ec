"""The original layouts of Stable Diffusion's checkpoints, which ComfyUI and A1111 load: names from diffusers' names."""
