"""The mirror of the pipeline in MLflow, and the results in a few lines for the terminal."""
