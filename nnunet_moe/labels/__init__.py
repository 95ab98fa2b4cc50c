"""Labels and regions of a dataset: their names, the cases in which they were annotated, and their volumes."""
