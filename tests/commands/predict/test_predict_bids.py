"""`nnunet_moe predict --bids`: sessions are cases, and the output is a derivative dataset that keeps BIDS's rules."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from made_grids import FINE, write_image

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.commands.predict.bids_cases import filters_of, find_bids_cases_to_predict, require_ending_of_bids
from nnunet_moe.commands.predict.bids_output import Derivative
from nnunet_moe.commands.predict.request import Request
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.models.choice import ModelChoice

NAMES = ("T1w", "T2w", "FLAIR")
FILTERS = {name: name for name in NAMES}
LABEL = r"[0-9A-Za-z+]+"
SEGMENTATION = re.compile(
    rf"(sub-{LABEL})/((ses-{LABEL})/)?anat/\1(?(3)_\3)_space-{LABEL}_desc-{LABEL}_dseg\.(nii\.gz|nii|json)"
)
"""Names of segmentations by the specification: the order of entities is sub, ses, space, desc."""
KIND = "space-orig_desc-nnunetmoe_dseg"


def predict(images: Path, out: Path, *more: object) -> None:
    model = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu")
    options = (*model, "--disable_progress_bar", "-npp", 0, "-nps", 0, "--disable_tta", *more)
    main(["predict", *map(str, ("-i", images, "-o", out, *options))])


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as opened:
        return {row["case"]: row for row in csv.DictReader(opened)}


def path(root: Path, case: str, kind: str, ending: str = ".nii.gz") -> Path:
    return root.joinpath(*case.split("_"), "anat", f"{case}_{kind}{ending}")


def study(root: Path, *files: tuple[str, str]) -> Path:
    """A dataset of small images, each a case and a kind."""
    for case, kind in files:
        write_image(path(root, case, kind), FINE)
    return root


def describe(root: Path) -> None:
    (root / "dataset_description.json").write_text('{"Name": "Glioma", "BIDSVersion": "1.10.0"}')


def require_valid(out: Path) -> None:
    """Each file is a segmentation with its sidecar, one of the dataset's files, or in `logs`, which is not checked."""
    names = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    others = {name for name in names if not name.startswith("logs/")} - {"dataset_description.json", "dseg.tsv"}
    assert others and all(SEGMENTATION.fullmatch(name) for name in others), others
    stems = [{name.removesuffix(ending) for name in others if name.endswith(ending)} for ending in (".json", ".nii.gz")]
    assert stems[0] == stems[1]
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and described["Name"] and described["BIDSVersion"]
    assert described["GeneratedBy"][0]["Name"] == "nnunet_moe"
    assert (out / "dseg.tsv").read_text().split("\n")[0].split("\t") == ["index", "name"]


@pytest.fixture
def bids(trained, subsets, tmp_path) -> Path:
    """Three subjects: `sub-01` has a session, `sub-02` lacks T2w and has no compressed files, `sub-03` has two runs."""
    root, name = tmp_path / "study", f"{subsets.cases[0]}_111"
    kinds = {
        "sub-01_ses-1": {"acq-3D_T1w.nii.gz": 0, "T2w.nii.gz": 1, "FLAIR.nii.gz": 2},
        "sub-02": {"T1w.nii": 0, "FLAIR.nii": 2},
        "sub-03": {"run-1_T1w.nii.gz": 0, "run-2_T1w.nii.gz": 0, "FLAIR.nii.gz": 2},
    }
    for case, files in kinds.items():
        for kind, channel in files.items():
            file = path(root, case, kind, "")
            file.parent.mkdir(parents=True, exist_ok=True)
            image = sitk.ReadImage(str(subsets.predictions.parent / "incoming" / f"{name}_{channel:04d}.nii.gz"))
            sitk.WriteImage(image, str(file))
    path(root, "sub-02", "T1w", ".json").write_text("{}")
    describe(root)
    return root


def test_sessions_are_predicted_like_files_into_a_valid_derivative_that_import_reads(
    bids, subsets, tmp_path, monkeypatch
):
    out, incoming = bids / "derivatives" / "nnunet_moe", subsets.predictions.parent / "incoming"
    with pytest.raises(SystemExit, match="Not predicted: 1"):
        predict(bids, out, "--bids")
    reason = rows(out / "logs" / "failures.csv")["sub-03"]["reason"]
    assert re.search(facts("sub-03_run-1_T1w.nii.gz", "-m T1w=run-1_T1w or run-2_T1w"), reason)
    require_valid(out)
    flat = tmp_path / "flat"
    flat.mkdir()
    for case, code in (("sub-01_ses-1", "111"), ("sub-02", "101")):
        for file in incoming.glob(f"{subsets.cases[0]}_{code}_*"):
            (flat / f"{case}_{file.name[-11:]}").symlink_to(file)
    predict(flat, tmp_path / "expected")
    for case, names in (("sub-01_ses-1", NAMES), ("sub-02", ("T1w", "FLAIR"))):
        written = path(out, case, KIND)
        found, expected = (sitk.ReadImage(str(file)) for file in (written, tmp_path / "expected" / f"{case}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
        sidecar = json.loads(path(out, case, KIND, ".json").read_text())
        sources = [out / "../.." / uri.removeprefix("bids:raw:") for uri in sidecar["Sources"]]
        assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == {"raw": "../.."}
        assert [str(file.resolve()) for file in sources] == [
            rows(out / "logs" / "manifest.csv")[case][f"file_{name}"] for name in names
        ]
        assert sidecar["SpatialReference"] in sidecar["Sources"] and sidecar["Manual"] is False
        assert sidecar["Modalities"] == list(names)
    table = [line.split("\t") for line in (out / "dseg.tsv").read_text().splitlines()[1:]]
    labels = json.loads((out / "logs" / "dataset.json").read_text())["labels"]
    assert {name: int(index) for index, name in table} == labels and len(table) == len(labels) > 1

    kept = path(out, "sub-01_ses-1", KIND).stat().st_mtime_ns
    path(out, "sub-02", KIND, ".json").unlink()
    path(bids, "sub-03", "run-1_T1w").unlink()
    with pytest.raises(SystemExit, match=facts("other settings", "bids")):
        predict(bids, out, "--bids", "-m", "T1w=run-2_T1w,T1w", "--continue_prediction")
    predict(bids, out, "--bids", "--continue_prediction")
    assert path(out, "sub-01_ses-1", KIND).stat().st_mtime_ns == kept
    assert rows(out / "logs" / "manifest.csv").keys() == {"sub-01_ses-1", "sub-02", "sub-03"}
    require_valid(out)

    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    named = [f"{name}={value}" for name, value in labels.items() if value]
    options = ("-l", f"derivatives/nnunet_moe/{KIND}", "-labels", *named, "-ending", ".nii.gz", "-np", "1", "--no_pbar")
    main(["import", "--bids", str(bids), "-d", "Dataset925_Back", *options])
    imported = tmp_path / "raw" / "Dataset925_Back"
    assert json.loads((imported / "dataset.json").read_text())["bids"] == {name: name for name in sorted(NAMES)}
    assert {file.name: file.read_bytes() for file in (imported / "labelsTr").iterdir()} == {
        f"{case}.nii.gz": path(out, case, KIND).read_bytes() for case in ("sub-01_ses-1", "sub-03")
    }


def test_the_parts_of_a_run_share_a_derivative_and_sidecars_name_the_grid(bids, tmp_path):
    path(bids, "sub-03", "run-1_T1w").unlink()
    coarse = sitk.ReadImage(str(path(bids, "sub-03", "FLAIR")))[::2, ::2, ::2]
    sitk.WriteImage(coarse, str(path(bids, "sub-03", "FLAIR")))
    path(bids, "sub-01_ses-1", "T2w").unlink()
    out, options = tmp_path / "out", ("--bids", "--align", "grid", "--output_space", "FLAIR", "-num_parts", 2)
    predict(bids, out, *options, "-part_id", 1)
    require_valid(out)
    predict(bids, out, *options, "-part_id", 0)
    require_valid(out)
    sidecar = json.loads(path(out, "sub-03", KIND, ".json").read_text())
    assert sidecar["SpatialReference"] == "bids:raw:sub-03/anat/sub-03_FLAIR.nii.gz"
    assert sidecar["Modalities"] == ["T1w", "FLAIR"]
    assert sitk.ReadImage(str(path(out, "sub-03", KIND))).GetSize() == coarse.GetSize()
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert links == {"raw": bids.resolve().as_uri()}
    predicted = [set(rows(out / "logs" / f"manifest_{part}_of_2.csv")) for part in (0, 1)]
    assert predicted == [{"sub-01_ses-1", "sub-03"}, {"sub-02"}]


def test_filters_are_those_given_then_those_of_training_then_the_names():
    trained = {"bids": {"T1w": "acq-3D_T1w", "FLAIR": "derivatives/prep/FLAIR"}}
    found = filters_of({"T1w": "run-1_T1w"}, trained, NAMES)
    assert found == {"T1w": "run-1_T1w", "T2w": "T2w", "FLAIR": "derivatives/prep/FLAIR"}
    for given, dataset_json, modalities, said in (
        ({"t1w": "T1w"}, {}, NAMES, ("-m t1w=T1w", "T1w, T2w, FLAIR")),
        ({"T1w": "T1-w"}, {}, NAMES, ("-m T1w=T1-w", "suffix")),
        ({}, {}, ("T1 ce",), ("'T1 ce'", "-m 'T1 ce=FILTER'")),
        ({}, {"bids": ["T1w"]}, NAMES, ("dataset.json", r"\['T1w'\]")),
    ):
        with pytest.raises(SettingsError) as error:
            filters_of(given, dataset_json, modalities)
        assert all(re.search(each, str(error.value)) for each in said), error.value


def test_what_is_not_clear_costs_only_its_case(tmp_path, capsys):
    root = study(
        tmp_path,
        ("sub-01", "run-2_T1w"),
        ("sub-01", "T1w"),
        ("sub-01", "flair"),
        ("sub-02", "run-1_FLAIR"),
        ("sub-02", "run-2_FLAIR"),
        ("sub-02", "T1w"),
        ("sub-03", "flair"),
        ("sub-04", "bold"),
    )
    path(root, "sub-05", "T1w").parent.mkdir(parents=True)
    path(root, "sub-05", "T1w").symlink_to(tmp_path / "annex" / "absent")
    write_image(root / "sub-06" / "anat" / "sub-07_T1w.nii.gz", FINE)
    write_image(path(root, "sub-06", "FLAIR"), FINE)
    path(root, "sub-08", "T1w", ".mgz").parent.mkdir(parents=True)
    path(root, "sub-08", "T1w", ".mgz").touch()
    (root / "sub-09").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    cases, failures = find_bids_cases_to_predict(root, FILTERS, None, ".nii.gz")
    assert re.search(facts("1 session has no image", "sub-04"), capsys.readouterr().out)
    (case,) = cases
    assert (case.name, case.images, case.channels) == ("sub-01", (str(path(root, "sub-01", "T1w").resolve()),), (0,))
    assert len(case.notes) == 2 and re.search(
        facts("sub-01_run-2_T1w.nii.gz", "fits the filter better"), "; ".join(case.notes)
    )
    assert re.search(facts("sub-01_flair.nii.gz", "upper and lower case"), "; ".join(case.notes))
    reasons = {failure.case: failure.reason for failure in failures}
    wanted = {
        "sub-02": ("sub-02_run-1_FLAIR.nii.gz", "-m FLAIR=run-1_FLAIR or run-2_FLAIR"),
        "sub-03": ("sub-03_flair.nii.gz", "upper and lower case"),
        "sub-05": ("absent", "datalad get"),
        "sub-06": ("sub-06_FLAIR.nii.gz", "lies a file of another one"),
        "sub-07": ("sub-07_T1w.nii.gz", "lies in sub-06"),
        "sub-08": ("sub-08_T1w.mgz", ".nii.gz or .nii"),
        "sub-09": ("link to a folder",),
    }
    assert reasons.keys() == wanted.keys()
    for name, said in wanted.items():
        assert re.search(facts(*said), reasons[name]), reasons[name]


def test_images_with_names_outside_bids_are_failures_of_their_folders(tmp_path):
    """Where the subject has other images, they are a note on its cases."""
    odd = ("sub-MS-01", "sub-\u00e91", "Sub-14", "MS02")
    root = study(tmp_path, ("sub-01_ses-1", "FLAIR"), ("sub-02", "T1w"), *((subject, "T1w") for subject in odd))
    write_image(root / "sub-01" / "ses-1" / "anat" / "sub-01_T1w (2).nii.gz", FINE)
    write_image(root / "lost.nii.gz", FINE)
    for folder in ("derivatives", "sourcedata", "code"):
        write_image(root / folder / "MS03" / "MS03_T1w.nii.gz", FINE)
    (root / "sub-05").symlink_to("nowhere")
    cases, failures = find_bids_cases_to_predict(root, FILTERS, None, ".nii.gz")
    assert {failure.case for failure in failures} == {*odd, "lost.nii.gz", "sub-05"}
    for failure in failures:
        what = ("nowhere", "Restore") if failure.case == "sub-05" else (Path(failure.files[0]).name, "Rename it")
        assert re.search(facts(*what), failure.reason), failure.reason
    notes = {case.name: case.notes for case in cases}
    assert notes.keys() == {"sub-01_ses-1", "sub-02"} and notes["sub-02"] == ()
    (note,) = notes["sub-01_ses-1"]
    assert re.search(facts("sub-01_T1w (2).nii.gz", "not used", "Rename it"), note)


def test_a_modality_without_files_is_said_once_and_a_dataset_without_any_is_refused(tmp_path, capsys):
    root = study(tmp_path / "study", ("sub-01", "T1w"), ("sub-02", "T1w"), ("sub-02", "ce-gd_T1w"))
    cases, failures = find_bids_cases_to_predict(root, {"T1w": "T1w", "PET": "pet"}, None, ".nii.gz")
    assert [case.name for case in cases] == ["sub-01", "sub-02"] and not failures
    printed = capsys.readouterr().out
    assert printed.count("PET") == 1 and re.search(facts("PET", "pet", "ce-gd_T1w: 1 file", "-m NAME"), printed)
    with pytest.raises(ModalityError, match=facts("PET", "T1w: 2 files", "-m NAME=FILTER")):
        find_bids_cases_to_predict(root, {"PET": "pet"}, None, ".nii.gz")
    (tmp_path / "empty").mkdir()
    for folder, said in ((tmp_path / "empty", "sub-01_T1w"), (tmp_path / "absent", "no folder")):
        with pytest.raises(ModalityError, match=facts(folder, said, "-i")):
            find_bids_cases_to_predict(folder, FILTERS, None, ".nii.gz")


def test_the_previous_stage_is_a_derivative_too(tmp_path):
    root, stage = study(tmp_path / "study", ("sub-01_ses-1", "T1w")), tmp_path / "stage"
    ((case,), _) = find_bids_cases_to_predict(root, {"T1w": "T1w"}, stage, ".nii.gz")
    assert case.previous_stage == str(path(stage.resolve(), "sub-01_ses-1", KIND))
    derivative = Derivative(tmp_path / "out", root, stage)
    sidecar = json.loads(derivative.sidecar({"T1w": case.images[0]}, case.images[0], case.previous_stage))
    place = "sub-01/ses-1/anat/sub-01_ses-1"
    assert sidecar["Sources"] == [f"bids:raw:{place}_T1w.nii.gz", f"bids:previous:{place}_{KIND}.nii.gz"]
    labels = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    files = derivative.files("model", labels)
    assert files["dseg.tsv"] == "index\tname\n0\tbackground\n1\twhole\n2\twhole; core\n"
    assert json.loads(files["dataset_description.json"])["DatasetLinks"].keys() == {"raw", "previous"}


def test_places_that_bids_does_not_allow_and_folders_of_others_are_refused(tmp_path):
    root = tmp_path / "study"
    root.mkdir()
    describe(root)
    refused = (root / "out", root / "derivatives", root / "derivatives" / "mine", root, tmp_path)
    for out in refused:
        with pytest.raises(SettingsError, match=facts(f"-o {out}", "Choose")):
            Derivative(out, root, None)
    Derivative(root / "derivatives" / "nnunet_moe-glioma", root, None)
    other = tmp_path / "other"
    other.mkdir()
    Derivative(other, root, None)
    describe(other)
    with pytest.raises(SettingsError, match=facts(other, "not empty")):
        Derivative(other, root, None)
    (other / "dataset_description.json").write_text(
        Derivative(other / "new", root, None).files("m", {"labels": {"background": 0, "lesion": 1}})[
            "dataset_description.json"
        ]
    )
    Derivative(other, root, None)


@pytest.mark.parametrize(
    "content, name",
    [
        (b'{"Name": "M\xc3\xbcnchen"}', "M\u00fcnchen"),
        (b'\xef\xbb\xbf{"Name": "Glioma"}\r\n', "Glioma"),
        (b'{"Name": null}', None),
        (b'{"Name": " "}', None),
        (b'{"Name": "M\xfcnchen"}', None),
        (b"[]", None),
        (None, None),
    ],
)
def test_a_dataset_without_a_name_is_called_after_its_folder_with_a_warning(tmp_path, capsys, content, name):
    root = tmp_path / "study"
    root.mkdir()
    if content is not None:
        (root / "dataset_description.json").write_bytes(content)
    files = Derivative(tmp_path / "out", root, None).files("m", {"labels": {"background": 0, "lesion": 1}})
    assert json.loads(files["dataset_description.json"])["Name"] == f"Segmentations of {name or 'study'}"
    warned = facts("WARNING", root / "dataset_description.json", "called after the folder, study")
    assert (re.search(warned, capsys.readouterr().out) is None) == (name is not None)


def test_options_that_do_not_fit_are_refused(tmp_path):
    model = ModelChoice(dataset="901", configuration="3d_tiny", trainer="nnUNetTrainerMoESD")
    refused: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({"bids": True, "dicom": True}, ("--dicom", "--bids")),
        ({"filters": {"T1w": "T1w"}}, ("-m", "--bids")),
        ({"bids": True, "save_probabilities": True}, ("--save_probabilities", "BIDS")),
    ]
    for options, said in refused:
        with pytest.raises(SettingsError, match=facts(*said)):
            Request(images=tmp_path / "in", out=tmp_path / "out", model=model, **options)
    for ending in (".nii.gz", ".nii"):
        require_ending_of_bids(ending)
    with pytest.raises(SettingsError, match=facts("--bids", ".nrrd", ".nii.gz and .nii")):
        require_ending_of_bids(".nrrd")
