"""Labels and regions of a dataset: what they are called, where they were annotated, and their volumes."""
