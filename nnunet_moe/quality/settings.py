"""Which signals of trust are measured, and what counts as a failure."""

from nnunet_moe.errors import SettingsError

OFF, FAST, FULL = "off", "fast", "full"
LEVELS = (OFF, FAST, FULL)
"""None; those that need no further pass of the network; also the agreement with one modality after another left out."""
DEFAULT_FAILURE_DSC = 0.5


def require_quality_settings(level: str, failure_dsc: float) -> None:
    """Check the level of signals, and the DSC below which a segmentation is a failure.

    Raises:
        SettingsError: the level is unknown, or the DSC is not above 0 and at most 1.
    """
    if level not in LEVELS:
        raise SettingsError(f"--quality is {level!r}. It must be one of {', '.join(LEVELS)}.")
    if not 0 < failure_dsc <= 1:
        raise SettingsError(f"-failure_dsc is {failure_dsc}. It must be above 0 and at most 1.")
