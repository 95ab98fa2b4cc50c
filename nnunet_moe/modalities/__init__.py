"""Which modalities a case has: modality codes, and tables of availability."""
