"""`nnunet_moe demo`: the whole job on a small phantom cohort."""
