"""Train and compare several methods on one dataset, with jobs that Snakemake runs: `nnunet_moe study`."""
