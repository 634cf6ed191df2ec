"""Rules by which a reward decides on images while they are made, one file each."""
