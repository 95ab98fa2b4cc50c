"""`nnunet_moe study`: train and compare several methods on one dataset, every job by Snakemake."""
