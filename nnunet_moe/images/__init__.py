"""Image files of cases: their names, their voxels and their grids; and simulated images."""
