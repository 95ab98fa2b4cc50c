"""How far a segmentation can be trusted: signals of one case, and their calibration to an expected Dice."""
