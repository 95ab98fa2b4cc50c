"""The available modalities of cases: modality codes, and tables of a whole dataset."""
