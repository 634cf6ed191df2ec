"""The embedded world of coloured shapes: its scenes, pictures and oracle."""
