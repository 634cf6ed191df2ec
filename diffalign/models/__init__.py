"""Families of text-to-image models behind one protocol."""
