"""Packaged models, run as their challenges run them: in a container without a network, as an unknown user."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from email import message_from_bytes
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contained import can_contain
from docker_stand_in import build, copy, read_dockerfile, run
from facts import facts
from nnunet_in_process import CPU, make_trainer
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.cli import main
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.commands.package import TARGETS, program
from nnunet_moe.commands.package.any_format import AnyFormatReader
from nnunet_moe.commands.package.mapping import InputMapping
from nnunet_moe.commands.package.model_copy import training_codes
from nnunet_moe.commands.package.naming import default_inputs
from nnunet_moe.commands.package.sample import write_sample
from nnunet_moe.commands.package.wheel import OF_TORCH, constraints, write_wheel
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.alignment.resampling import resampled
from nnunet_moe.images.alignment.volumes import Space
from nnunet_moe.images.reading import read_channels
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.modalities.codes import all_codes, code_digits, code_text

ROOT = Path(__file__).parents[3]
NAMES = ("T1w", "T2w", "FLAIR")
FLAT = {"patch_size": [32, 32], "batch_size": 2, "spacing": [1.0, 1.0], "data_identifier": "nnUNetPlans_3d_fullres"}
CODES = all_codes(3)
MODEL = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, 1)
APP = {target: "/app" if target == "fomo" else "/opt/app" for target in TARGETS}
OBLIQUE = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
FLIPPED = (-1, 0, 0, 0, 0, 1, 0, -1, 0)
SPACING, ORIGIN = (1.25, 0.75, 1), (-31.5, 12.25, 100)  # exact in single precision, which NIfTI's headers are in

needs_namespaces = pytest.mark.skipif(
    not (can_contain() or "CI" in os.environ), reason="users cannot make namespaces here"
)


def package(out: Path, target: str, *more, model=MODEL) -> Path:
    main(["package", *map(str, (*model, "-o", out, "--target", target, "-device", "cpu", *more))])
    return out


def name_of(code) -> str:
    return f"case{code_digits(code)}"


def grid(image: sitk.Image) -> tuple:
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.fixture(scope="module")
def packages(trained, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {target: package(folder / target, target, "--disable_tta") for target in TARGETS}


@pytest.fixture(scope="module")
def image(packages, tmp_path_factory) -> dict:
    """What each package's Dockerfile builds."""
    return {target: build(folder, tmp_path_factory.mktemp(target)) for target, folder in packages.items()}


@pytest.fixture(scope="module")
def sent(dataset, tmp_path_factory) -> dict[str, Path]:
    """Contract -> folder with one case a code, oblique and flipped in turn, as each contract sends them."""
    folder = tmp_path_factory.mktemp("sent")
    for number, code in enumerate(CODES):
        case = name_of(code)
        sockets = []
        for channel in np.flatnonzero(code):
            image = sitk.ReadImage(str(dataset.raw / "imagesTs" / f"phantomTs000_{channel:04d}.nii.gz"))
            image.SetDirection((OBLIQUE, FLIPPED)[number % 2])
            image.SetSpacing(SPACING)
            image.SetOrigin(ORIGIN)
            for key in image.GetMetaDataKeys():
                image.EraseMetaData(key)
            slug, suffix = ("t1w", "t2w", "flair")[channel], ("-t1n", "-t2w", "-t2f")[channel]
            files = {
                "plain": f"{case}_{channel:04d}.nii.gz",
                "brats": f"{case}/{case}{suffix}.nii.gz",
                "fomo": f"{case}/{slug}.nii.gz",
                "grand-challenge": f"{case}/images/{slug}/2f0e{channel}{('.mha', '.nii.gz')[channel % 2]}",
            }
            for target, file in files.items():
                (folder / target / file).parent.mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(image, str(folder / target / file))
            socket = {"slug": slug, "relative_path": f"images/{slug}"}
            sockets.append({("socket", "interface")[number % 2]: socket, "image": {"name": "x"}, "value": None})
        (folder / "grand-challenge" / case / "inputs.json").write_text(json.dumps(sockets))
    return {target: folder / target for target in TARGETS}


@pytest.fixture(scope="module")
def predicted(trained, sent, tmp_path_factory) -> dict[str, sitk.Image]:
    """What `nnunet_moe predict` makes of the same cases."""
    out = tmp_path_factory.mktemp("predicted")
    where = ("-i", sent["plain"], "-o", out, "--disable_tta", "-npp", 0, "-nps", 0)
    main(["predict", *map(str, (*MODEL, *where, "-device", "cpu", "--disable_progress_bar"))])
    return {name_of(code): sitk.ReadImage(str(out / f"{name_of(code)}.nii.gz")) for code in CODES}


def arguments_of(target: str, out_of_case) -> list[list[str]]:
    """A run's arguments each, as the contract has them, or with the folder of a case in the place of `/input`."""
    if target == "grand-challenge":
        return [["--input", f"/input/{name_of(code)}", "--output", f"/output/{name_of(code)}"] for code in CODES]
    if target == "fomo":
        flags = {code: [("t1w", "t2w", "flair")[channel] for channel in np.flatnonzero(code)] for code in CODES}
        return [
            [word for flag in flags[code] for word in (f"--{flag}", f"/input/{name_of(code)}/{flag}.nii.gz")]
            + ["--output", f"/output/{out_of_case(name_of(code))}"]
            for code in CODES
        ]
    return [[]]


RUNS = """
import json, runpy, sys
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["predict.py", *arguments]
    try:
        runpy.run_path(sys.argv_program, run_name="__main__")
    except SystemExit as left:
        assert left.code == 0, arguments
"""


@needs_namespaces
@pytest.mark.parametrize("target", TARGETS)
def test_in_a_container_every_subset_gets_what_predict_gives_on_the_images_grid(
    target, image, sent, predicted, tmp_path
):
    def out_of_case(case):
        return f"{case}/images/segmentation/output.mha" if target == "grand-challenge" else f"{case}.nii.gz"

    runs = RUNS.replace("sys.argv_program", repr(f"{APP[target]}/predict.py"))
    several = json.dumps(arguments_of(target, out_of_case))
    in_one_process = type(image[target])(**{**vars(image[target]), "entry_point": ["python", "-c", runs, several]})
    tmp_path.chmod(0o777)
    done = run(in_one_process, [], {"/input": sent[target]}, {"/output": tmp_path})
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {out_of_case(name_of(code)) for code in CODES}
    assert len({sitk.GetArrayFromImage(segmentation).tobytes() for segmentation in predicted.values()}) == len(CODES)
    for number, code in enumerate(CODES):
        case = name_of(code)
        assert f"{code_text(code, NAMES)}, " in done.stdout
        segmentation, expected = sitk.ReadImage(str(tmp_path / out_of_case(case))), predicted[case]
        np.testing.assert_array_equal(sitk.GetArrayFromImage(segmentation), sitk.GetArrayFromImage(expected))
        assert grid(segmentation)[:3] == ((32, 36, 32), SPACING, ORIGIN)
        np.testing.assert_allclose(segmentation.GetDirection(), (OBLIQUE, FLIPPED)[number % 2], atol=1e-6)


@needs_namespaces
@pytest.mark.parametrize("target", ["grand-challenge", "grand-challenge, weights apart", "brats", "plain"])
def test_test_sh_builds_the_image_and_runs_it_on_the_sample(target, packages, tmp_path):
    target, _, is_apart = target.partition(", ")
    app = Path(shutil.copytree(packages[target], tmp_path / "a:b, $(c) d"))
    if is_apart:
        dockerfile = (app / "Dockerfile").read_text()
        assert "COPY model/ model/\n" in dockerfile
        (app / "Dockerfile").write_text(dockerfile.replace("COPY model/ model/\n", ""))
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests" / "docker_stand_in.py"} "$@"\n')
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{docker.parent}:{os.environ['PATH']}", "STAND_IN_IMAGES": str(tmp_path)}
    said = subprocess.run([app / "test.sh"], env=environment, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    in_readme = next(line for line in (app / "README.md").read_text().splitlines() if "volumes: " in line)
    assert in_readme.partition("volumes: ")[2] in said.stdout
    assert f"Model: {'/opt/ml/model' if is_apart else '/opt/app/model'}, T1w+T2w+FLAIR" in said.stdout
    (result,) = (path for path in (app / "sample" / "output").rglob("*") if path.is_file())
    assert f"The container works: {result.relative_to(app)}" in said.stdout


def required_by(wheel: Path) -> list[Distribution]:
    """The distributions of this environment that a wheel needs, and those that they need in turn."""
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        pending = [(text, "") for text in message_from_bytes(opened.read(metadata)).get_all("Requires-Dist", [])]
    found: dict[str, Distribution] = {}
    seen = set(pending)
    while pending:
        text, extra = pending.pop()
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        found[requirement.name] = distribution(requirement.name)
        needed = {(each, more) for each in found[requirement.name].requires or () for more in ("", *requirement.extras)}
        pending += needed - seen
        seen |= needed
    return list(found.values())


def test_the_lines_of_the_dockerfile_install_and_place_all_that_the_program_needs(packages, tmp_path):
    """In a fresh virtual environment, in the place of the image's Python.

    What the wheel says that it needs lies there already, and nothing else, so that pip downloads nothing.
    """
    workdir, package_folder = tmp_path / "app", packages["grand-challenge"]
    python = tmp_path / "env" / "bin" / "python"
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", python]
    (site_packages,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    (wheel,) = package_folder.glob("*.whl")
    for each in required_by(wheel):
        for name in {file.parts[0] for file in each.files or () if file.parts[0] != ".."}:
            if not (site_packages / name).exists():
                (site_packages / name).symlink_to(Path(str(each.locate_file(name))))
    lines = read_dockerfile(package_folder / "Dockerfile")
    assert [name for name, _ in lines] == [
        "FROM",
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "COPY",
        "COPY",
        "USER",
        "ENTRYPOINT",
    ]
    for name, value in lines:
        if name == "COPY":
            copy(value, package_folder, workdir)
        elif name == "RUN":
            assert value.startswith("pip install ")
            arguments = value.replace("--no-cache-dir", "--no-index --no-deps").split()[1:]
            subprocess.run([*pip, *arguments], cwd=workdir, check=True, capture_output=True)
    subprocess.run([*pip, "check"], check=True)
    out = tmp_path / "out"
    where = ["--input", str(package_folder / "sample" / "input"), "--output", str(out), "--device", "cpu"]
    done = subprocess.run([python, workdir / "predict.py", *where], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (out / "images" / "segmentation" / "output.mha").exists()
    listed = subprocess.check_output([*pip, "list", "--format=freeze"], text=True)
    installed = {canonicalize_name(line.partition("==")[0]) for line in listed.split()}
    pinned = {line.partition("==")[0] for line in (workdir / "constraints.txt").read_text().split()}
    of_torch = {name for name in installed if name.startswith(OF_TORCH)}
    assert installed - pinned - of_torch == {"nnunet-moe"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_dockerfile_has_nothing_that_hadolint_names(target, packages):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, packages[target] / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_apptainer_definition_copies_and_installs_what_the_dockerfile_does(packages, image, tmp_path):
    sections: dict[str, list[str]] = {}
    for line in (packages["fomo"] / "Apptainer.def").read_text().splitlines():
        if line.startswith("%"):
            sections[line] = []
        elif line.strip() and sections:
            sections[list(sections)[-1]].append(line.strip())
    for line in sections["%files"]:
        source, target = line.split()
        place = tmp_path / Path(target).relative_to("/")
        if (packages["fomo"] / source).is_dir():
            shutil.copytree(packages["fomo"] / source, place)
        else:
            place.parent.mkdir(exist_ok=True)
            shutil.copy(packages["fomo"] / source, place)
    files = {folder: sorted(p.relative_to(folder) for p in folder.rglob("*")) for folder in (tmp_path / "app",)}
    in_image = Path(image["fomo"].files)
    assert files[tmp_path / "app"] == sorted(path.relative_to(in_image) for path in in_image.rglob("*"))
    said = dict(read_dockerfile(packages["fomo"] / "Dockerfile"))
    assert said["RUN"] in sections["%post"] and f"cd {said['WORKDIR']}" in sections["%post"]
    assert [f"export {pair}" for pair in said["ENV"].split()] == sections["%environment"]
    assert sections["%runscript"] == [f'exec {" ".join(image["fomo"].entry_point)} "$@"']


@pytest.mark.slow
def test_the_wheel_is_the_one_that_pip_builds(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path / "pip"), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (by_pip,) = (tmp_path / "pip").glob("*.whl")
    with zipfile.ZipFile(by_pip) as expected, zipfile.ZipFile(write_wheel(tmp_path)) as written:
        own = {name for name in expected.namelist() if not name.endswith(("top_level.txt", "WHEEL", "RECORD"))}
        assert {name for name in written.namelist() if not name.endswith(("WHEEL", "RECORD"))} == own
        for name in own:
            assert written.read(name) == expected.read(name), name
        rows = written.read("nnunet_moe-0.1.0.dist-info/RECORD").decode().splitlines()
        assert sorted(row.partition(",")[0] for row in rows) == sorted(written.namelist())


def test_constraints_pin_what_is_needed_directly_or_not_to_public_versions():
    pinned = dict(line.split("==") for line in constraints(cpu=False))
    assert {"nnunetv2", "torch", "batchgenerators", "sympy", "surface-distance"} <= pinned.keys()
    assert not any(name.startswith("nvidia-") for name in pinned)  # torch knows which, for each of its builds
    assert not any("+" in version for version in pinned.values())
    assert not {"pytest", "snakemake", "pip", "nnunet-moe"} & pinned.keys()


READERS = {
    "SimpleITKIO": (SimpleITKIO, ".nii.gz", ".mha"),
    "NibabelIO": (NibabelIO, ".nii.gz", ".mha"),
    "NibabelIOWithReorient": (NibabelIOWithReorient, ".nii.gz", ".mha"),
    "Tiff3DIO": (Tiff3DIO, ".tif", ".mha"),
    "NaturalImage2DIO": (NaturalImage2DIO, ".png", ".tif"),
}


@pytest.mark.parametrize("name", READERS)
def test_any_reader_reads_any_format_alike_and_writes_on_the_grid_of_the_images(name, tmp_path):
    reader_class, native, other = READERS[name]
    generator = np.random.default_rng(0)
    shape = (5, 6) if native == ".png" else (5, 6, 7)
    image = sitk.GetImageFromArray(generator.integers(1, 200, shape).astype(np.uint8))
    if native == ".nii.gz":
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
        image.SetDirection(OBLIQUE)
    files = [tmp_path / f"image{ending}" for ending in (native, other)]
    for file in files:
        sitk.WriteImage(image, str(file))
    reader = AnyFormatReader(reader_class(), native)
    (array, _), (converted, properties) = (reader.read_images([str(file)]) for file in files)
    np.testing.assert_array_equal(array, converted)
    labels = (array[0] > 100).astype(np.uint8)
    reader.write_seg(labels, tmp_path / "labels.mha", properties, files[1])
    written = sitk.ReadImage(str(tmp_path / "labels.mha"))
    assert grid(written) == grid(sitk.ReadImage(str(files[1])))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(image) > 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*(file.name for file in files), "labels.mha"])


def test_a_reader_without_grids_gets_the_spacing_and_the_grids_are_compared(tmp_path):
    """nnU-Net's reader of tifs takes the spacing from a file beside them, and keeps neither origin nor direction."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(1, 200, (5, 6, 7)).astype(np.uint8))
    image.SetSpacing(SPACING)
    reader = AnyFormatReader(Tiff3DIO(), ".tif")
    for name, origin in (("a", ORIGIN), ("b", ORIGIN), ("c", (0, 0, 0))):
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(tmp_path / f"{name}.mha"))
    files = {0: str(tmp_path / "a.mha"), 1: str(tmp_path / "b.mha")}
    images = read_channels(reader, files, ["CT", "PET"])
    assert tuple(images.properties["spacing"]) == SPACING[::-1] and images.image.shape == (2, 5, 6, 7)
    with pytest.raises(ModalityError, match=facts("c.mha", "a.mha", "origin")):
        read_channels(reader, {0: files[0], 1: str(tmp_path / "c.mha")}, ["CT", "PET"])


@pytest.mark.parametrize(
    ("ending", "median_shape", "size", "pixel"),
    [
        (".nii.gz", [30, 36, 32], (48, 56, 48), sitk.sitkFloat32),
        (".nii.gz", [1, 36, 32], (48, 56, 1), sitk.sitkFloat32),
        (".png", [1, 36, 32], (48, 56), sitk.sitkUInt8),
    ],
)
def test_the_sample_case_is_of_the_datasets_kind(ending, median_shape, size, pixel, dataset, tmp_path):
    plans = json.loads(dataset.plans_file.read_text())
    plans |= {"original_median_shape_after_transp": median_shape, "original_median_spacing_after_transp": [3, 2, 1]}
    mapping = InputMapping("plain", {"_0000": "T1w", "_0001": "T2w"}, ending)
    write_sample(tmp_path, mapping, ["T1w", "T2w"], PlansManager(plans), ending)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"phantom_{channel:04d}{ending}" for channel in (0, 1)]
    image = sitk.ReadImage(str(tmp_path / f"phantom_0001{ending}"))
    assert (image.GetSize(), image.GetPixelID()) == (size, pixel) and sitk.GetArrayFromImage(image).any()
    if ending == ".nii.gz":
        assert image.GetSpacing() == (1, 2, 3)


def test_the_platforms_model_folder_comes_before_the_images_own(packages, monkeypatch, tmp_path, capfd):
    shutil.copytree(packages["plain"] / "model", tmp_path / "apart")
    monkeypatch.setattr(program, "PLATFORM_MODEL", tmp_path / "apart")
    where = [
        "--input",
        str(packages["plain"] / "sample" / "input"),
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert program.main(packages["plain"], where) == 0
    assert f"Model: {tmp_path / 'apart'}" in capfd.readouterr().out
    shutil.move(tmp_path / "apart", tmp_path / "elsewhere")
    assert program.main(packages["plain"], where) == 0
    assert f"Model: {packages['plain'] / 'model'}" in capfd.readouterr().out


def test_images_on_different_grids_are_aligned_if_the_mapping_says_so(packages, sent, tmp_path, capfd):
    """With the same result as `nnunet_moe predict --align`; without it, the case fails and names both files."""
    app = tmp_path / "app"
    shutil.copytree(packages["plain"], app)
    (tmp_path / "input").mkdir()
    for file in sent["plain"].glob("case111_*"):
        shutil.copy(file, tmp_path / "input")
    other = tmp_path / "input" / "case111_0001.nii.gz"
    image = sitk.ReadImage(str(other), sitk.sitkFloat32)
    onto = Space.of(image)
    onto = replace(onto, size=(*onto.size[:2], onto.size[2] // 2), spacing=(*onto.spacing[:2], 2 * onto.spacing[2]))
    sitk.WriteImage(resampled(image, onto), str(other))
    where = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 1
    assert re.search(facts("case111_0000.nii.gz", "case111_0001.nii.gz", "shape"), capfd.readouterr().err)
    replace(InputMapping.read(app / "mapping.json"), align="grid", reference="FLAIR").write(app / "mapping.json")
    assert program.main(app, where) == 0
    log = capfd.readouterr().out
    assert "case111: FLAIR reference\n" in log and re.search(r"case111: T2w resampled, covers \d+% of FLAIR\n", log)
    for wrong in ({"reference": "CT"}, {"align": "off"}):  # refused once, before any case
        other = Path(shutil.copytree(app, tmp_path / f"wrong_{next(iter(wrong))}"))
        replace(InputMapping.read(app / "mapping.json"), **wrong).write(other / "mapping.json")
        assert program.main(other, where) == 1
        assert re.fullmatch(r'[^\n]*"reference"[^\n]* in mapping.json[^\n]*\n', capfd.readouterr().err)
    options = ("-device", "cpu", "--disable_tta", "--disable_progress_bar", "--align", "grid", "--reference", "FLAIR")
    predicted = ("-i", str(tmp_path / "input"), "-o", str(tmp_path / "predicted"))
    main(["predict", *predicted, *map(str, MODEL), *options, "-npp", "0", "-nps", "0"])
    found, expected = (sitk.ReadImage(str(tmp_path / name / "case111.nii.gz")) for name in ("out", "predicted"))
    assert Space.of(found) == Space.of(sitk.ReadImage(str(tmp_path / "input" / "case111_0002.nii.gz")))
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    for wrong in ({"align": "affine"}, {"align": "grid", "min_covered": "half"}, {"reference": 3}, {"min_covered": 7}):
        with pytest.raises(SettingsError):
            replace(InputMapping.read(app / "mapping.json"), **wrong)


def spoilt(sent: Path, folder: Path) -> Path:
    """A copy of the complete case, to be spoilt."""
    return Path(shutil.copytree(sent / "case111", folder / "input"))


def twice(folder: Path) -> None:
    (folder / "images" / "t1w" / "again.mha").write_bytes((folder / "images" / "t1w" / "2f0e0.mha").read_bytes())


def not_an_image(folder: Path) -> None:
    (folder / "images" / "t1w" / "2f0e0.mha").write_text("no image")


def nothing(folder: Path) -> None:
    shutil.rmtree(folder / "images" / "t1w")


def other_grid(folder: Path) -> None:
    file = str(folder / "images" / "t1w" / "2f0e0.mha")
    sitk.WriteImage(sitk.ReadImage(file)[:-1], file)


def sockets(*slugs: str):
    def write(folder: Path) -> None:
        entries = [{"socket": {"slug": slug, "relative_path": f"images/{slug}"}} for slug in slugs]
        (folder / "inputs.json").write_text(json.dumps(entries))

    return write


def truncated_tif(folder: Path) -> None:
    file = folder / "images" / "t1w" / "2f0e0.mha"
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkUInt16), str(file.with_suffix(".tif")))
    file.unlink()
    whole = file.with_suffix(".tif").read_bytes()
    file.with_suffix(".tif").write_bytes(whole[: len(whole) // 2])


def truncated(folder: Path) -> None:
    file = folder / "images" / "t1w" / "2f0e0.mha"
    file.write_bytes(file.read_bytes()[:-1000])


def a_folder(folder: Path) -> None:
    (folder / "images" / "t1w" / "2f0e0.mha").unlink()
    (folder / "images" / "t1w" / "2f0e0.mha").mkdir()


def colours(folder: Path) -> None:
    file = str(folder / "images" / "t1w" / "2f0e0.mha")
    sitk.WriteImage(sitk.Compose([sitk.ReadImage(file)] * 3), file)


def a_slice(folder: Path) -> None:
    for channel, slug in enumerate(("t1w", "t2w", "flair")):
        (file,) = (folder / "images" / slug).iterdir()
        image = sitk.ReadImage(str(file))[:, :, 3]
        file.unlink()
        sitk.WriteImage(image, str(file.with_name(f"{channel}.mha")))


def paths(**entry: object):
    return lambda folder: (folder / "inputs.json").write_text(json.dumps([{"socket": entry}]))


BAD = {
    "a truncated tif": (truncated_tif, ("2f0e0.tif", "cut off")),
    "a truncated image": (truncated, ("2f0e0.mha", "read")),
    "a folder with an image's name": (a_folder, ("2f0e0.mha", "not a file")),
    "colours": (colours, ("3 values", "voxel")),
    "a slice": (a_slice, ("0.mha", "slice", "volumes")),
    "a path elsewhere": (paths(slug="t1w", relative_path="../../etc"), ("path", "t1w", "../../etc")),
    "an absolute path": (paths(slug="t1w", relative_path="/etc"), ("path", "t1w", "/etc")),
    "a slug that is none": (paths(slug=["t1w"], relative_path="x"), ("slug", "['t1w']")),
    "an object in the place of the list": (lambda folder: (folder / "inputs.json").write_text("{}"), ("dict",)),
    "an unknown socket": (sockets("t1w", "ct"), ("ct", "known", "t1w", "t2w", "flair")),
    "two files in a socket": (twice, ("t1w", "one image")),
    "a socket without an image": (nothing, ("t1w", "one image")),
    "a socket that is listed twice": (sockets("t1w", "t1w"), ("t1w", "twice")),
    "an image that cannot be read": (not_an_image, ("2f0e0.mha", "read")),
    "images on two grids": (other_grid, ("differ", "shape")),
    "no known modality": (sockets(), ("No known modality", "nothing", "t1w (T1w)", "t2w (T2w)")),
    "no inputs.json": (lambda folder: (folder / "inputs.json").unlink(), ("inputs.json", "read")),
    "another inputs.json": (lambda folder: (folder / "inputs.json").write_text("[1]"), ("list", "sockets")),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_no_output(what, packages, sent, tmp_path, capfd):
    spoil, expected = BAD[what]
    folder = spoilt(sent["grand-challenge"], tmp_path)
    spoil(folder)
    where = ["--input", str(folder), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(packages["grand-challenge"], where) == 1
    said = capfd.readouterr().err
    assert re.search(facts(*expected), said) and said.count("\n") == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_one_bad_subject_does_not_keep_the_others_from_their_segmentations(packages, sent, tmp_path, capfd):
    for case in ("case100", "case010"):
        shutil.copytree(sent["brats"] / case, tmp_path / "input" / case)
    (tmp_path / "input" / "case100" / "case100-t1n.nii.gz").write_bytes(b"")
    where = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(packages["brats"], where) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case010.nii.gz"]
    said = capfd.readouterr().err
    assert said.startswith("case100: ") and "case100-t1n.nii.gz cannot be read" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["p/p-t1n.nii.gz", "p/p-ct.nii.gz"], ("p: ", "{in}/p/p-ct.nii.gz", "known", "CASE-t1n.nii.gz")),
        (["p/p-t1n.nii.gz", "p/p-t1n.nii"], ("p: ", "{in}/p/p-t1n.nii", "{in}/p/p-t1n.nii.gz", "both", "T1w")),
        (["p/p-t1c.nii.gz", "p/p-seg.nii.gz"], ("p: ", "No known modality", "-seg", "-t1c", "-t1n (T1w)")),
        (["p/scan.dcm"], ("p: ", "{in}/p", "no image")),
        (["p\udcff-t1n.nii.gz"], ("p\\xff-t1n.nii.gz", "UTF-8")),
        (["README.txt"], ("no image", "{in}", "mapping.json")),
    ],
)
def test_files_that_brats_does_not_send_are_one_line(files, expected, packages, sent, tmp_path, capfd):
    folder = tmp_path / "input"
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sent["brats"] / "case100" / "case100-t1n.nii.gz", folder / file)
    where = ["--input", str(folder), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(packages["brats"], where) == 1
    said = capfd.readouterr().err
    assert re.search(facts(*(fact.replace("{in}", str(folder)) for fact in expected)), said) and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_subject_is_the_one_of_its_folder_and_none_is_passed_over(packages, sent, tmp_path, capfd):
    folder, image = tmp_path / "in", sent["brats"] / "case100" / "case100-t1n.nii.gz"
    for file in (
        "P1/brain-t1n",
        "P2/brain-t1n",
        "P3/P3-t1n",
        "P3/more/P3-t2w",
        "P4/P4-t1n",
        "P5/P5-t1n",
        "P5-t1n",
        "P6/P7-t1n",
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / f"{file}.nii.gz")
    (folder / "P4" / "P4-t2w.mgz").touch()
    (folder / "P6" / "P7-t1n.json").touch()
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    (folder / "case010").symlink_to(sent["brats"] / "case010")
    shutil.copy(image, folder / "flat-t1n.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "P1.nii.gz").write_text("of an earlier run")
    where = ["--input", str(folder), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(packages["brats"], where) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case010.nii.gz", "flat.nii.gz"]
    said = dict(line.split(": ", 1) for line in capfd.readouterr().err.splitlines())
    expected = {
        "P1": (f"{folder}/P1", "brain", "P1 and a suffix"),
        "P2": (f"{folder}/P2", "brain", "P2 and a suffix"),
        "P3": (f"{folder}/P3/more", "subfolder with images"),
        "P4": (f"{folder}/P4/P4-t2w.mgz", "unknown format", ".bmp"),
        "P5": ("P5", f"{folder}/P5", "next to it"),
        "P6": (f"{folder}/P6", "P7", "P6 and a suffix"),
        "dangling": (f"{folder}/dangling", "link", "does not exist"),
    }
    assert said.keys() == expected.keys()
    for case, what in expected.items():
        assert re.search(facts(*what), said[case]), said[case]


def test_a_stray_file_keeps_no_other_case_from_its_segmentation(packages, sent, tmp_path, capfd):
    for name in ("case100_0000", "case010_0001"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(sent["plain"] / f"{name}.nii.gz", tmp_path / "in")
    shutil.copy(sent["plain"] / "case100_0000.nii.gz", tmp_path / "in" / "case100_0005.nii.gz")
    shutil.copy(sent["plain"] / "case100_0000.nii.gz", tmp_path / "in" / "case1001.nii.gz")
    (tmp_path / "in" / "other_0000.mgz").touch()
    (tmp_path / "in" / "sub").mkdir()
    shutil.copy(sent["plain"] / "case100_0000.nii.gz", tmp_path / "in" / "sub")
    where = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(packages["plain"], where) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case010.nii.gz"]
    said = capfd.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in said] == ["case100", "case1001", "other", "sub"]
    assert all(re.search(facts("not known", "CASE_0000.nii.gz"), line) for line in said[:2])
    assert "unknown format" in said[2] and "subfolder with images" in said[3]


def test_a_case_for_which_memory_does_not_suffice_keeps_no_other_case_from_its_segmentation(
    packages, sent, tmp_path, capfd, monkeypatch
):
    forward = ModalityNetwork.forward

    def short_without_t1w(network, x):
        if x[:, 0].isnan().any():
            torch.zeros(1 << 52)
        return forward(network, x)

    (tmp_path / "in").mkdir()
    for name in ("case100_0000", "case010_0001"):
        shutil.copy(sent["plain"] / f"{name}.nii.gz", tmp_path / "in")
    monkeypatch.setattr(ModalityNetwork, "forward", short_without_t1w)
    where = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(packages["plain"], where) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case100.nii.gz"]
    (said,) = capfd.readouterr().err.splitlines()
    assert re.search(facts("case010 (T2w)", "device cpu", "more memory"), said)


def test_endings_in_capital_letters_are_read(packages, sent, tmp_path):
    (tmp_path / "in").mkdir()
    image = sitk.ReadImage(str(sent["plain"] / "case100_0000.nii.gz"))
    for name, ending in (("a", ".nii.gz"), ("b", ".mha"), ("c", ".nrrd")):
        sitk.WriteImage(image, str(tmp_path / f"x{ending}"))
        (tmp_path / f"x{ending}").rename(tmp_path / "in" / f"{name}_0000{ending.upper()}")
    where = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(packages["plain"], where) == 0
    a, b, c = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz"))) for name in "abc")
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ct", "x.nii.gz", "--output", "{out}"], ("unrecognized", "--ct")),
        (["--flair", "--output", "{out}"], ("--flair", "argument")),
        (["--flair", "x.nii.gz"], ("required", "--output")),
        (["--output", "{out}"], ("No known modality", "nothing")),
        (["--swi", "x.nii.gz", "--output", "{out}"], ("No known modality", "swi")),
        (["--flair", "x.nii.gz", "--output", "{out}"], ("x.nii.gz", "does not exist")),
        (["--flair", "x.nii.gz", "--flair", "y.nii.gz", "--output", "{out}"], ("both", "FLAIR")),
        (["--flair", "x.nii.gz", "--output", "out.txt"], ("name", "end")),
        (
            ["--flair", "x.nii.gz", "--output", "out.png"],
            ("name", "end", ".nii.gz, .nii, .nrrd, .mha, .gipl"),
        ),
        (["--flair", "", "--output", "{out}"], ("read", "not a file")),
        (
            ["--flair", "x.nii.gz", "--t1w", "x.nii.gz", "--output", "{out}"],
            ("x.nii.gz", "FLAIR", "another"),
        ),
        (["--flair", "x.nii.gz", "--output", ".nii.gz"], ("name", "end")),
    ],
)
def test_flags_that_fomo_does_not_give_are_one_line(arguments, expected, packages, tmp_path, capfd):
    out = tmp_path / "out.nii.gz"
    assert program.main(packages["fomo"], [word.replace("{out}", str(out)) for word in arguments]) == 1
    said = capfd.readouterr().err
    assert re.search(facts(*expected), said) and said.count("\n") == 1 and not out.exists()


def test_flags_that_differ_in_a_sign_alone_are_two(packages, sent, tmp_path, capfd):
    app = Path(shutil.copytree(packages["fomo"], tmp_path / "app"))
    mapping = json.loads((app / "mapping.json").read_text())
    (app / "mapping.json").write_text(json.dumps({**mapping, "inputs": {"t1-c": "T1w", "t1_c": "T2w"}}))
    image = str(sent["plain"] / "case100_0000.nii.gz")
    assert program.main(app, ["--t1-c", image, "--output", str(tmp_path / "out.nii.gz"), "--device", "cpu"]) == 0
    assert "out: T1w, " in capfd.readouterr().out


def test_tifs_are_segmented_like_other_formats(packages, sent, tmp_path):
    for channel, slug in enumerate(("t1w", "t2w", "flair")):
        image = sitk.ReadImage(str(sent["plain"] / f"case111_{channel:04d}.nii.gz"))
        tif = tmp_path / "tif" / "images" / slug / "x.tif"
        tif.parent.mkdir(parents=True)
        sitk.WriteImage(sitk.GetImageFromArray(sitk.GetArrayFromImage(image).astype(np.uint16)), str(tif))
        mha = tmp_path / "mha" / "images" / slug / "x.mha"
        mha.parent.mkdir(parents=True)
        sitk.WriteImage(sitk.ReadImage(str(tif)), str(mha))
    segmentations = []
    for ending in ("tif", "mha"):
        sockets("t1w", "t2w", "flair")(tmp_path / ending)
        where = ["--input", str(tmp_path / ending), "--output", str(tmp_path / f"out_{ending}"), "--device", "cpu"]
        assert program.main(packages["grand-challenge"], where) == 0
        file = str(tmp_path / f"out_{ending}" / "images" / "segmentation" / "output.mha")
        segmentations.append(sitk.ReadImage(file))
    of_tif, of_mha = segmentations
    assert grid(of_tif) == grid(of_mha)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(of_tif), sitk.GetArrayFromImage(of_mha))


def test_an_untrained_subset_is_segmented_with_a_warning(packages, sent, tmp_path, capfd):
    app = Path(shutil.copytree(packages["plain"], tmp_path / "app"))
    packaged = json.loads((app / "model" / "packaged.json").read_text())
    packaged["trained"] = {"0": ["110", "001"], "1": ["111"]}
    (app / "model" / "packaged.json").write_text(json.dumps(packaged))
    for code in ("110", "101"):
        for file in sent["plain"].glob(f"case{code}_*"):
            (tmp_path / "input").mkdir(exist_ok=True)
            shutil.copy(file, tmp_path / "input")
    where = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 0
    warned = [line for line in capfd.readouterr().out.splitlines() if "WARNING" in line]
    assert len(warned) == 1
    assert warned[0].startswith("case101: WARNING: no training case of fold 0 had T1w+FLAIR together")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case101.nii.gz", "case110.nii.gz"]


def test_what_training_cases_had_is_read_from_the_preprocessed_dataset(dataset, tmp_path, monkeypatch):
    assert training_codes("Dataset901_Tiny", (0, 1), NAMES) == {fold: {(True, True, True)} for fold in (0, 1)}
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    assert training_codes("Dataset001_X", (0,), NAMES) is None
    folder = tmp_path / "Dataset001_X"
    folder.mkdir()
    codes = {"a": (True, True, True), "b": (True, False, True), "c": (False, True, True)}
    (folder / "availability.csv").write_text(Availability(codes, NAMES).csv())
    splits = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["b"], "val": ["a", "c"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    expected = {0: {codes["a"], codes["b"]}, 1: {codes["b"]}, "all": set(codes.values())}
    assert training_codes("Dataset001_X", (0, 1, "all"), NAMES) == expected
    assert training_codes("Dataset001_X", (2,), NAMES) is None
    monkeypatch.delenv("nnUNet_preprocessed")
    assert training_codes("Dataset001_X", (0,), NAMES) is None


def test_what_the_preprocessed_dataset_tells_of_training_cases_becomes_the_warning(
    trained, sent, tmp_path, monkeypatch, capfd
):
    (tmp_path / "pre" / "Dataset901_Tiny").mkdir(parents=True)
    codes = {"a": (True, True, False), "b": (False, True, True)}
    (tmp_path / "pre" / "Dataset901_Tiny" / "availability.csv").write_text(Availability(codes, NAMES).csv())
    splits = json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}])
    (tmp_path / "pre" / "Dataset901_Tiny" / "splits_final.json").write_text(splits)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "pre"))
    app = package(tmp_path / "app", "brats", "--disable_tta")
    assert "WARNING: no training case of fold 0, 1 had T1w+T2w+FLAIR" in capfd.readouterr().out  # of the sample
    for case in ("case010", "case100", "case011"):
        shutil.copytree(sent["brats"] / case, tmp_path / "in" / case)
    where = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 0
    warned = [line.partition(" together")[0] for line in capfd.readouterr().out.splitlines() if "WARNING" in line]
    warning = "WARNING: no training case of fold"
    assert warned == [f"case011: {warning} 0 had T2w+FLAIR", f"case100: {warning} 1 had T1w"]


def untrained(trainer: str, configuration: str, dataset: int = 901) -> tuple:
    """The options that name a model whose weights are as they were drawn."""
    made = make_trainer(dataset, configuration, trainer)
    made.initialize()
    Path(made.output_folder).mkdir(parents=True, exist_ok=True)
    for name, content in (("plans", made.plans_manager.plans), ("dataset", made.dataset_json)):
        (Path(made.output_folder_base) / f"{name}.json").write_text(json.dumps(content))
    made.save_checkpoint(str(Path(made.output_folder) / "checkpoint_final.pth"))
    return ("-d", dataset, "-c", configuration, "-tr", trainer, "-f", 0)


@pytest.mark.parametrize(
    ("trainer", "configuration", "takes", "inputs"),
    [
        ("nnUNetTrainer", "3d_tiny", "cases that have all of T1w, T2w, FLAIR", ["T1w", "T2w", "FLAIR"]),
        ("nnUNetTrainerDedicated", "3d_pair", "cases that have all of T1w, FLAIR", ["T1w", None, "FLAIR"]),
        ("nnUNetTrainerLCKD", "3d_tiny", "cases that have any of T1w, T2w, FLAIR", ["T1w", "T2w", "FLAIR"]),
        ("nnUNetTrainerSwinUNet", "2d_small", "cases that have just one of T1w, T2w, FLAIR", ["T1w", "T2w", "FLAIR"]),
    ],
)
def test_the_texts_tell_which_cases_a_model_takes(
    trainer, configuration, takes, inputs, dataset, tmp_path, monkeypatch, capfd, request
):
    planned = dataset.plans_file.read_text()
    request.addfinalizer(lambda: dataset.plans_file.write_text(planned))
    dataset.add_configuration("3d_pair", modality_code=[1, 0, 1])
    small = {"patch_size": [32, 32], "features_per_stage": [4, 6], "settings": {"width": 12}}
    plans = json.loads(dataset.plans_file.read_text())
    plans["configurations"]["2d"] = {**plans["configurations"]["3d_fullres"], **FLAT}
    dataset.plans_file.write_text(json.dumps(plans))
    add_small_configuration(dataset.plans_file, "2d_small", **small)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    app = package(tmp_path / "app", "grand-challenge", "--disable_tta", model=untrained(trainer, configuration))
    readme = (app / "README.md").read_text()
    assert f"container takes {takes}." in readme and f", for {takes}:" in capfd.readouterr().out
    assert ("an interface for each combination" in readme) == (" all of " not in takes)
    assert [*InputMapping.read(app / "mapping.json").inputs.values()] == inputs
    where = ["--input", str(app / "sample" / "input"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 0


def test_one_subset_is_packaged_as_an_ordinary_nnunet_that_takes_nothing_less(trained, sent, tmp_path, capfd):
    inputs = ("-inputs", "first=T1w", "second=T2w", "third=FLAIR", "age=")
    app = package(tmp_path / "app", "grand-challenge", "-m", "FLAIR+T1w", *inputs, "--disable_tta")
    assert InputMapping.read(app / "mapping.json").inputs == {
        "first": "T1w",
        "second": None,
        "third": "FLAIR",
        "age": None,
    }
    assert [path.name for path in (app / "model").glob("*__*")] == ["nnUNetTrainer__nnUNetPlans__3d_tiny"]
    case = spoilt(sent["grand-challenge"], tmp_path)
    for slug, old in (("first", "t1w"), ("second", "t2w"), ("third", "flair")):
        (case / "images" / old).rename(case / "images" / slug)
    sockets("first", "second", "third", "age")(case)
    where = ["--input", str(case), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 0
    stock = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(app / "model" / "nnUNetTrainer__nnUNetPlans__3d_tiny"), (0, 1))
    files = [str(sent["plain"] / f"case111_{channel:04d}.nii.gz") for channel in (0, 2)]
    (expected,) = stock.predict_from_files_sequential([files], None)
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "images" / "segmentation" / "output.mha")))
    np.testing.assert_array_equal(written, expected)
    capfd.readouterr()
    sockets("first", "second")(case)
    assert program.main(app, [*where[:2], "--output", str(tmp_path / "out2"), "--device", "cpu"]) == 1
    assert re.search(facts("has T1w", "all of T1w, FLAIR"), capfd.readouterr().err)
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("-inputs", "a=T1w", "b=CT"), ("CT", "T1w, T2w, FLAIR")),
        (("-inputs", "a=T1w", "b=T2w"), ("-inputs", "nothing", "FLAIR")),
        (("-inputs", "a=T1w", "a=T2w"), ("-inputs", "a twice")),
        (("-m", "CT"), ("not a subset",)),
        (
            ("-inputs", "$(touch x)=T1w", "b=T2w", "c=FLAIR"),
            ("inputs", "'$(touch x)'", "letters"),
        ),
        (("-inputs", "../a=T1w", "b=T2w", "c=FLAIR"), ("inputs", "'../a'", "letters")),
        (("-output", "../../x"), ("output", "'../../x'", "slug", "path")),
        (("-step_size", "2"), ("step_size", 2.0, 0, 1)),
        (("-f", "3"), ("does not exist",)),
    ],
)
def test_what_cannot_be_packaged_is_an_error_and_leaves_nothing(more, expected, trained, tmp_path):
    with pytest.raises(SystemExit, match=facts("nnunet_moe package: ", *expected)) as raised:
        package(tmp_path / "out", "grand-challenge", *more)
    assert str(raised.value).startswith("nnunet_moe package: ")
    assert not (tmp_path / "out").exists()


def test_no_list_of_cases_no_path_and_no_optimiser_leaves_the_house(trained, tmp_path, monkeypatch):
    results = tmp_path / "results" / "Dataset901_Tiny"
    shutil.copytree(trained.model_folder(), results / trained.model_folder().name)
    file = results / trained.model_folder().name / "dataset.json"
    secret = {"training": [{"image": "/data/of/Jane_Doe.nii.gz"}], "dataset": {"Jane_Doe": {}}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **secret}))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    out = package(tmp_path / "out", "plain")
    texts = [path for path in out.rglob("*") if path.is_file() and path.suffix not in (".whl", ".gz", ".pth")]
    assert len(texts) >= 9
    for path in texts:
        assert not {word for word in ("Jane_Doe", str(trained.workspace.folder)) if word in path.read_text()}, path
    for path in out.rglob("*.pth"):
        checkpoint = torch.load(path, weights_only=True)
        assert "Jane_Doe" not in str(checkpoint["init_args"])
        assert checkpoint.keys() == {"network_weights", "trainer_name", "inference_allowed_mirroring_axes", "init_args"}


def test_a_folder_that_holds_something_stays_as_it_is(trained, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(SystemExit, match=facts(tmp_path, "not an empty folder")):
        package(tmp_path, "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_trainer_that_the_container_has_not_is_refused(trained, tmp_path, monkeypatch):
    folder = tmp_path / "external"
    folder.mkdir()
    source = (
        "from nnunet_moe.trainers.moesd import nnUNetTrainerMoESD\nclass nnUNetTrainerMine(nnUNetTrainerMoESD): ..."
    )
    (folder / "mine.py").write_text(source)
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    mine = trained.model_folder("nnUNetTrainerMine")
    shutil.copytree(trained.model_folder(), mine)
    try:
        with pytest.raises(SystemExit, match=facts("nnUNetTrainerMine", "module mine")):
            package(tmp_path / "out", "plain", model=("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMine", "-f", 0))
    finally:
        shutil.rmtree(mine)


def test_contracts_know_the_usual_names_of_modalities():
    assert default_inputs("brats", ["T1ce", "T1", "FLAIR", "T2", "SWI"]) == {
        "-t1c": "T1ce",
        "-t1n": "T1",
        "-t2f": "FLAIR",
        "-t2w": "T2",
        "-swi": "SWI",
        "-seg": None,
    }
    assert default_inputs("fomo", ["DWI", "T2*", "FLAIR"]) == {
        "dwi_b1000": "DWI",
        "t2s": "T2*",
        "flair": "FLAIR",
        "adc": None,
        "swi": None,
    }
    assert default_inputs("grand-challenge", ["T1 (post)", "CE-MRI"]) == {"t1-post": "T1 (post)", "ce-mri": "CE-MRI"}
    assert default_inputs("plain", ["a", "b"]) == {"_0000": "a", "_0001": "b"}
    with pytest.raises(SettingsError, match=facts("T1", "T1w", "'-t1n'")):
        default_inputs("brats", ["T1", "T1w"])
    with pytest.raises(SettingsError, match=facts("'弥散'")):
        default_inputs("grand-challenge", ["弥散"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"target": "kaggle"}, ("target", "'kaggle'", "grand-challenge, brats, fomo, plain")),
        ({"inputs": {"t1": 0}}, ("table", "modalities", "null")),
        ({"inputs": ["T1w"]}, ("table", "modalities", "null")),
        ({"output": ".dcm"}, ("output", "'.dcm'", ".nii.gz")),
        ({"output": None}, ("output", "None")),
        ({"step_size": True}, ("step_size", "True")),
        ({"mirroring": "no"}, ("mirroring", "'no'")),
        ({"folds": 5}, ("target, inputs, output, folds", "step_size")),
    ],
)
def test_a_mapping_that_somebody_spoilt_is_told(content, expected, tmp_path):
    good = {"target": "plain", "inputs": {"_0000": "T1w"}, "output": ".nii.gz"}
    (tmp_path / "mapping.json").write_text(json.dumps({**good, **content}))
    with pytest.raises(SettingsError, match=facts("mapping.json", *expected)):
        InputMapping.read(tmp_path / "mapping.json")


def test_a_mapping_of_another_model_is_told(packages, tmp_path, capfd):
    app = Path(shutil.copytree(packages["plain"], tmp_path / "app"))
    mapping = json.loads((app / "mapping.json").read_text())
    (app / "mapping.json").write_text(json.dumps({**mapping, "inputs": {"_0000": "CT"}}))
    where = ["--input", str(app / "sample" / "input"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 1
    assert re.search(facts("CT", "T1w, T2w, FLAIR"), capfd.readouterr().err)
    with pytest.raises(SettingsError, match=facts("no modality", "T1w")):
        InputMapping("plain", {"_0000": None}, ".nii.gz").require_modalities(["T1w"])
    with pytest.raises(ModalityError, match=facts("The suffix _0001", "known")):
        InputMapping("plain", {"_0000": None}, ".nii.gz").modality("_0001", "The suffix _0001")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"folds": []}, ("folds", "()")),
        ({"folds": [0, "x"]}, ("folds", "(0, 'x')")),
        ({"folds": [7]}, ("fold_7/checkpoint_final.pth", "does not exist")),
        ({"checkpoint": 5}, ("checkpoint", 5)),
        ({"folder": "x"}, ("folder", "'x'")),
        ({"trained": [1]}, ("not a packaged model",)),
        ({"trained": {"0": "111"}}, ("trained", "'111'", "fold 0")),
        ({"trained": {"0": ["11"]}}, ("code 11", "3 modalities")),
        ({"more": 1}, ("not a packaged model",)),
    ],
)
def test_a_packaged_model_that_somebody_spoilt_is_told_before_anything_is_written(
    change, expected, packages, tmp_path, capfd
):
    app = Path(shutil.copytree(packages["plain"], tmp_path / "app"))
    file = app / "model" / "packaged.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    where = ["--input", str(app / "sample" / "input"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 1
    said = capfd.readouterr().err
    assert re.search(facts(*expected), said) and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["nan", "lacking", "no checkpoint", "no plans", "no model", "nothing"])
def test_a_model_that_is_damaged_is_told_before_anything_is_written(what, packages, tmp_path, capfd):
    app = Path(shutil.copytree(packages["plain"], tmp_path / "app"))
    (folder,) = (app / "model").glob("*__*")
    file = folder / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=True)
    first = next(iter(checkpoint["network_weights"]))
    if what == "nan":
        checkpoint["network_weights"][first] *= torch.nan
        torch.save(checkpoint, file)
    elif what == "lacking":
        del checkpoint["network_weights"][first]
        torch.save(checkpoint, file)
    elif what == "no checkpoint":
        file.write_text("none")
    elif what == "no plans":
        (folder / "plans.json").write_text("{")
    elif what == "no model":
        shutil.rmtree(folder)
    else:
        shutil.rmtree(app / "model")
    where = ["--input", str(app / "sample" / "input"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert program.main(app, where) == 1
    said = capfd.readouterr().err
    expected = {
        "nan": ("weights", "NaN"),
        "lacking": (first,),
        "no checkpoint": ("loaded",),
        "no plans": ("loaded",),
        "no model": ("checkpoint_final.pth", "does not exist"),
        "nothing": ("not a packaged model",),
    }
    assert re.search(facts(*expected[what]), said) and said.count("\n") == 1 and not (tmp_path / "out").exists()
