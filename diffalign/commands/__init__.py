"""Commands beside the pipeline: they score, compare and relabel what a user has, without a stage of the DAG."""
