"""The mirror of the pipeline in MLflow."""
