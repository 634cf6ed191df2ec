"""Variables that launchers leave in a shell."""

LEFTOVERS = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "29511",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "PET_NNODES": "2",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMI_SIZE": "2",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
    "SM_HOSTS": '["algo-1", "algo-2"]',
}
"""What torchrun, Kubernetes, Slurm, MPI, accelerate and SageMaker leave in a shell."""
