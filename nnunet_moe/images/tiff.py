"""Check TIFFs, which tifffile reads for nnU-Net: are they complete, and are they slices?"""

import logging

import tifffile

TIFF = (".tif", ".tiff")


def require_whole(file: str) -> None:
    """Refuse a TIFF that was cut off, because tifffile and ITK read its remaining slices without an error.

    Raises:
        RuntimeError: it was cut off, or is no TIFF.
    """
    complaints: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: complaints.append(record.getMessage())
    log = tifffile.logger()
    log.addHandler(handler)
    try:
        with tifffile.TiffFile(file) as opened:
            len(opened.pages)
    except tifffile.TiffFileError as error:
        raise RuntimeError(str(error)) from error
    finally:
        log.removeHandler(handler)
    if any("TiffPages" in complaint for complaint in complaints):  # their offset is invalid, or their tags are damaged
        raise RuntimeError("it is cut off")


def values_in_tiff(file: str, *, is_segmentation: bool) -> int:
    """Return the number of values in each voxel of a TIFF.

    tifffile also writes volumes of three or four slices like colors in separate planes. Numbers with a fraction are no
    colors, so such a file is taken for slices.
    """
    with tifffile.TiffFile(file) as opened:
        series = opened.series[0]
        lengths = dict(zip(series.axes, series.shape, strict=True))
        if series.axes.endswith("S"):
            return lengths["S"]
        if is_segmentation:
            return 1
        return lengths.get("C", lengths.get("S", 1) if series.dtype.kind in "ui" else 1)
