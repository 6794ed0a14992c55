"""The command line: argument handling and printing, nothing else."""
