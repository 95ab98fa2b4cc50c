"""Image files of cases: their names, how they are read, and the grids that they lie on."""
