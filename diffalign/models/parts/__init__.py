"""What families share: the schemas of config files, the encoders' computations, loading, checksums of weights."""
