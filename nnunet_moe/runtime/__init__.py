"""Files, processes, the environment and the arithmetic that the package runs with."""
