"""One file a stage of the DAG in dvc.yaml, each with run(params) or run(params, key): files in, files out."""
