"""What planning says before it preprocesses: normalizations with reasons, and the memory that it will need."""

import numpy as np
import pytest

from incomplete import describe, extract_fingerprint, plan_and_preprocess, write
from nnunet_moe.commands.plan_and_preprocess.memory import BASE, bytes_per_process, bytes_to_read, choose_processes
from nnunet_moe.commands.plan_and_preprocess.normalizations import look_alikes, normalization_table


def named(*names: str) -> dict:
    return {"channel_names": {str(channel): name for channel, name in enumerate(names)}}


def test_each_modality_has_its_normalization_and_the_reason():
    schemes = ("CTNormalization", "ZScoreNormalization", "ZScoreNormalization", "NoNormalization")
    table = normalization_table(named("ct", "FLAIR", "zscore", "FLAIR"), schemes, (False, True, False, False))
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]] == [
        [
            "0",
            "ct",
            "CTNormalization",
            "by the percentiles, mean and SD of the labeled voxels of all training cases",
            "the name 'ct'",
        ],
        [
            "1",
            "FLAIR:1",
            "ZScoreNormalization",
            "each image by its own mean and SD, inside the region that is not zero",
            "'FLAIR' is not one of the names ct, nonorm, zscore, rescale_to_0_1, rgb_to_0_1",
        ],
        ["2", "zscore", "ZScoreNormalization", "each image by its own mean and SD", "the name 'zscore'"],
        ["3", "FLAIR:3", "NoNormalization", "not at all", "the plans"],
    ]


@pytest.mark.parametrize("name", ["CT portal", "ct_venous", "CT ", "NCCT-CT", "no norm", "No-Norm", "z score"])
def test_a_name_that_only_looks_like_one_is_warned_of(name):
    (warning,) = look_alikes(named("T1w", name))
    assert repr(name) in warning and "exact" in warning


@pytest.mark.parametrize("name", ["CT", "ct", "T1w", "PET", "ACT1", "contrast", "octa", "nonorm", "T2ct1"])
def test_other_names_are_not_warned_of(name):
    assert look_alikes(named(name)) == []


FINGERPRINT = {
    "shapes_after_crop": [[10, 20, 30], [20, 20, 20]],
    "spacings": [[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]],
    "median_relative_size_after_cropping": 0.5,
}


def test_the_memory_of_a_case_by_hand():
    first = 4 * 3 * 5 * 12_000 + 32 * (12_000 + 6_000)  # 6,000 voxels, 12,000 before the crop, not resampled
    second = 4 * 3 * (5 * 16_000 + 2 * 8_000 + 16_000) + 32 * (16_000 + 16_000)  # 8,000 voxels become 16,000
    assert second > first
    assert bytes_per_process(FINGERPRINT, 3, (1.0, 1.0, 1.0), (0, 1, 2)) == BASE + second
    only_first = {**FINGERPRINT, "shapes_after_crop": [[10, 20, 30]], "spacings": [[1.0, 1.0, 1.0]]}
    assert bytes_per_process(only_first, 3, (1.0, 1.0, 1.0), (0, 1, 2)) == BASE + first


def test_axes_are_transposed_and_slices_of_2d_configurations_keep_their_spacing():
    one = {**FINGERPRINT, "shapes_after_crop": [[10, 20, 30]], "spacings": [[1.0, 2.0, 4.0]]}
    same = bytes_per_process(one, 1, (4.0, 1.0, 2.0), (2, 0, 1))
    assert same == BASE + 4 * 5 * 12_000 + 32 * (12_000 + 6_000)
    assert bytes_per_process(one, 1, (1.0, 2.0), (2, 0, 1)) == same
    halved = bytes_per_process(one, 1, (2.0, 1.0, 2.0), (2, 0, 1))
    assert halved == BASE + 4 * (5 * 12_000 + 2 * 6_000 + 12_000) + 32 * (12_000 + 12_000)


GB = 10**9


@pytest.mark.parametrize(
    ("needed", "available", "is_default", "number", "text"),
    [
        (1 * GB, 10 * GB, True, 4, "Preprocessing needs up to 1.0 GB of memory per process, 4.0 GB for 4. Available"),
        (1 * GB, 5 * GB, True, 4, "Available are 5.0 GB."),
        (1 * GB, 4.9 * GB, True, 3, "Available are only 4.9 GB, so 3 are used. -np sets another number."),
        (1 * GB, 4.9 * GB, False, 4, "Use -np 3."),
        (6 * GB, 4.9 * GB, True, 1, "Memory may run out even with -np 1."),
        (6 * GB, 4.9 * GB, False, 4, "Memory may run out even with -np 1."),
        (6 * GB, None, True, 4, "If this machine has less, use fewer processes with -np."),
    ],
)
def test_processes_that_have_no_memory_are_not_started(needed, available, is_default, number, text):
    chosen, line = choose_processes(needed, 4, available, is_default=is_default)
    assert chosen == number and text in line
    assert line.startswith("WARNING: ") == ("-np 3" in text or "even" in text)


def test_the_memory_to_read_a_case_is_known_from_the_headers(tmp_path):
    small, large = np.zeros((4, 5, 6), dtype=np.uint8), np.zeros((7, 8, 9), dtype=np.uint8)
    for name, image in (("a_0000.nii.gz", small), ("b_0000.nrrd", large), ("c_0000.tif", small[0])):
        write(tmp_path / name, image)
    (tmp_path / "d_0000.nii.gz").write_bytes(b"no image")
    cases = [[str(path), "not looked at"] for path in sorted(tmp_path.iterdir())]
    assert bytes_to_read(cases, 3) == BASE + 504 * (4 * 3 * 5 + 32 * 2)
    assert bytes_to_read(cases[:1], 1) == BASE + 120 * (4 * 5 + 32 * 2)
    assert bytes_to_read(cases[2:], 1) == BASE + 30 * (4 * 5 + 32 * 2)
    assert bytes_to_read(cases[3:], 1) == BASE
    _, line = choose_processes(6e9, 8, 13 * GB, is_default=False, what="Reading the cases needs", flag="-npfp")
    assert line.startswith("WARNING: Reading the cases needs up to 6.0 GB") and "Use -npfp 1." in line


def test_the_command_says_it_before_it_preprocesses(tmp_path, monkeypatch, capsys):
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    raw = tmp_path / "raw" / "Dataset924_Told"
    image = np.zeros((8, 8, 8), dtype=np.float32)
    image[2:6, 2:6, 2:6] = np.random.default_rng(0).random((4, 4, 4)) + 1
    for case in ("a", "b"):
        for channel in (0, 1):
            write(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image + channel * (image > 0) * image.T)
        write(raw / "labelsTr" / f"{case}.nii.gz", (image > 1.5).astype(np.uint8))
    describe(raw, ("CT", "CT late"), 2)
    extract_fingerprint(924, num_samples=100)
    plan_and_preprocess("-d", 924, "-c", "3d_fullres")
    told = capsys.readouterr().out
    assert "| 0 | CT | CTNormalization | by the percentiles" in told
    assert "| 1 | CT late | ZScoreNormalization | each image by its own mean and SD, inside the region" in told
    assert "WARNING: The modality 'CT late' gets the z-score normalization" in told
    reading, table = "Dataset924_Told: Reading the cases needs up to 0.5 GB of memory per process", "| 0 | CT |"
    assert told.index(reading) < told.index(table)
    memory, preprocessing = "3d_fullres: Preprocessing needs up to 0.5 GB of memory per process", "preprocessing for 3d"
    assert told.index(memory) < told.index(preprocessing)
