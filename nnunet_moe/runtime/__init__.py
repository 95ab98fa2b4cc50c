"""Options, files, processes, the environment and numerical precision: what all commands need to run."""
