"""The training loop and what it leaves behind: run directories, checkpoints, metrics."""
