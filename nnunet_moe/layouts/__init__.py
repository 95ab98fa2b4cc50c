"""Layouts of datasets from other sources: what lies in a folder, and which files are a case."""
