"""Make nnU-Net find the trainers."""
