"""A tiny phantom dataset, planned, preprocessed and trained once a session with nnU-Net's own commands."""

import json
import multiprocessing
import multiprocessing.spawn
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path

import hypothesis
import pytest
import torch
from xdist.scheduler import LoadFileScheduling

from incomplete import extract_fingerprint, plan_and_preprocess
from made_batches import LABELS
from nnunet_moe.cli import main
from nnunet_moe.commands.demo.case_subsets import CaseSubsets, cases_of
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.images.phantom import SIGNAL, write_phantom_cohort
from nnunet_moe.runtime.workspace import Workspace
from preloaded import preloaded
from two_image_types import write_two_image_types

DATASET_ID, DATASET, CONFIGURATION = 901, "Dataset901_Tiny", "3d_tiny"
TRAINER = "nnUNetTrainerMoESD"
NUM_SAMPLES = 1e5
LENGTH = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 7}


# where it is set, each of hundreds of processes compiles torch and nnU-Net anew, which is most of the tests' time
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# few workers; augmentation inside the process is also what makes training repeatable. nnU-Net reads the first when it
# is imported, so it is set before the test modules are
os.environ.update(nnUNet_def_n_proc="1", nnUNet_n_proc_DA="0", nnUNet_npp="1", nnUNet_nps="1")
# two processes run the tests; threads of several on the same cores wait for each other, and nnU-Net's commands take one
# thread a core whatever this says: let them at least not spin while they wait
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
os.environ["MATPLOTLIBRC"] = str(Path(__file__).with_name("matplotlibrc"))
torch.set_num_threads(1)
# the same examples in each run; more of them with the environment variable
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(__file__).parents[1] / ".pytest_cache" / "hypothesis"))
hypothesis.settings.register_profile(
    "suite",
    max_examples=int(os.environ.get("NUM_EXAMPLES", "60")),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("suite")


TOGETHER = {
    "demo_run": ("test_demo", "test_tutorials"),
    "two_image_types": ("test_label_sets", "test_m4oe", "test_m4oe_mae"),
}
"""Which files need the same session fixture, the longest group first."""


def group_of(nodeid: str) -> str:
    """The group of a test's file; a file that shares nothing is a group of its own."""
    path = nodeid.split("::")[0]
    return next((name for name, files in TOGETHER.items() if Path(path).stem in files), path)


class Groups(LoadFileScheduling):
    """One process runs all files of a group, so that what they share is made once; the others go file by file."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_collection_modifyitems(items):
    """Mark what is slow, and begin with the groups that take longest, so that no process is left with one at the end.

    What uses the dataset, which nnU-Net plans for half a minute, is slow; nobody has to remember to mark it. The
    fixtures `trained`, `make_trainer` and all others that need the dataset are in `fixturenames` together with it.
    Longest are the groups that share a fixture, then those with the most slow tests.
    """
    for item in items:
        if {"dataset", "demo_run"} & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    num_slow = Counter(group_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: ((group := group_of(item.nodeid)) not in TOGETHER, -num_slow[group]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Groups(config, log)


@dataclass(frozen=True)
class Dataset:
    workspace: Workspace

    @property
    def raw(self) -> Path:
        return self.workspace.raw / DATASET

    @property
    def plans_file(self) -> Path:
        return self.workspace.preprocessed / DATASET / "nnUNetPlans.json"

    @property
    def planned_file(self) -> Path:
        """The plans as nnU-Net wrote them; tests change those that it reads."""
        return self.workspace.folder / "planned.json"

    @property
    def dataset_json_file(self) -> Path:
        return self.raw / "dataset.json"

    def add_configuration(self, name: str, **settings: object) -> None:
        add_small_configuration(
            self.plans_file, name, patch_size=[32] * 3, features_per_stage=[4, 6, 8], settings={**LENGTH, **settings}
        )

    def train(self, trainer: str = TRAINER, *, configuration: str = CONFIGURATION, fold: int = 0, more: tuple = ()):
        arguments = (str(DATASET_ID), configuration, str(fold), "-tr", trainer, "-device", "cpu", *more)
        self.workspace.run("nnUNetv2_train", *arguments)

    def model_folder(self, trainer: str = TRAINER, configuration: str = CONFIGURATION) -> Path:
        return self.workspace.results / DATASET / f"{trainer}__nnUNetPlans__{configuration}"

    def last_log(self) -> str:
        newest = max(self.workspace.logs.iterdir(), key=lambda path: int(path.name.split("_")[0]))
        return newest.read_text()


@pytest.fixture(scope="session")
def preloaded_python(tmp_path_factory) -> Iterator[Path]:
    """A `python` with the commands beside it, whose processes need not import torch; see `preloaded.py`.

    All workers that are spawned from now on are such processes. Commands are where `sys.executable` is this one.
    """
    if not hasattr(os, "pidfd_open"):
        yield Path(sys.executable)
        return
    with preloaded(tmp_path_factory.mktemp("preloaded") / "bin") as python:
        multiprocessing.set_executable(str(python))
        yield python
        multiprocessing.set_executable(sys.executable)


@pytest.fixture
def preloaded_commands(preloaded_python, monkeypatch) -> None:
    """Let the commands that this test starts be processes that need not import torch."""
    monkeypatch.setattr(sys, "executable", str(preloaded_python))


@pytest.fixture
def own_workers() -> Iterator[None]:
    """Let the workers that this test spawns import torch and nnU-Net themselves."""
    before = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(sys.executable)
    yield
    multiprocessing.set_executable(before)


def extract_nnunets_fingerprint(dataset_id: int) -> None:
    """Of fewer voxels than nnU-Net's command takes, which is most of its time; it keeps a fingerprint that there is.

    The tutorials about incomplete cases and about CT and MRI have theirs whole.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    extractor = DatasetFingerprintExtractor(dataset_id, num_processes=1)
    extractor.num_foreground_voxels_for_intensitystats = NUM_SAMPLES
    extractor.run()


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all processes of a test run share: the first that needs it fills it, while the others wait.

    They copy what they need, so that no test changes the files of another process.

    Args:
        make: fills the folder, which does not exist before.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with folder.with_suffix(".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not folder.exists():
            unfinished = own / f"{name}_unfinished"
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(preloaded_python, tmp_path_factory) -> Iterator[Dataset]:
    """Five training and two test cases, three modalities, preprocessed; the environment variables point to it."""
    from nnunet_in_process import command

    workspace = Workspace(tmp_path_factory.mktemp("nnunet"))
    dataset = Dataset(workspace)

    def make(shared: Path) -> None:
        write_phantom_cohort(dataset.raw, num_training=5, num_test=2, shape=(32, 36, 32))
        extract_nnunets_fingerprint(DATASET_ID)
        command("nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-c", "3d_fullres", "-np", 1)
        shutil.copy(dataset.plans_file, dataset.planned_file)
        dataset.add_configuration(CONFIGURATION)
        shutil.copytree(workspace.folder, shared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(workspace.raw))
        patch.setenv("nnUNet_preprocessed", str(workspace.preprocessed))
        patch.setenv("nnUNet_results", str(workspace.results))
        shutil.copytree(made_once(tmp_path_factory, "dataset", make), workspace.folder, dirs_exist_ok=True)
        yield dataset


@pytest.fixture(scope="session")
def trained(dataset, tmp_path_factory) -> Dataset:
    """The dataset with two folds of MoE-SD trained on it, and the splits that nnU-Net made for them."""
    from nnunet_in_process import command

    splits = dataset.plans_file.with_name("splits_final.json")

    def make(shared: Path) -> None:
        for fold in (0, 1):
            command("nnUNetv2_train", DATASET_ID, CONFIGURATION, fold, "-tr", TRAINER, "-device", "cpu", "--npz")
        shutil.copytree(dataset.model_folder(), shared / "model")
        shutil.copy(splits, shared)

    shared = made_once(tmp_path_factory, "trained", make)
    shutil.copytree(shared / "model", dataset.model_folder(), dirs_exist_ok=True)
    shutil.copy(shared / splits.name, splits)
    return dataset


@pytest.fixture(scope="session")
def two_image_types(dataset) -> Path:
    """A raw dataset of CT and of MR cases with a label each, 904, preprocessed in 2D and 3D."""
    raw = dataset.workspace.raw / "Dataset904_TwoKinds"
    write_two_image_types(raw)
    extract_fingerprint(904)
    plan_and_preprocess("-d", 904, "-c", "2d", "3d_fullres")
    return raw


@pytest.fixture(scope="session")
def subsets(dataset, tmp_path_factory) -> CaseSubsets:
    """One test case under all codes; `incoming` beside the predictions' folder holds the files."""
    folder = tmp_path_factory.mktemp("subsets")
    labels = dataset.raw / "labelsTs"
    subsets = CaseSubsets(dataset.raw / "imagesTs", labels, folder / "predictions", cases_of(labels)[:1], tuple(SIGNAL))
    subsets.write_inputs(folder / "incoming")
    return subsets


@pytest.fixture
def copied_case(dataset, tmp_path) -> list[Path]:
    """The three files of a test case, to be spoilt."""
    folder = tmp_path / "case"
    folder.mkdir()
    files = sorted((dataset.raw / "imagesTs").glob("phantomTs000_*"))
    return [Path(shutil.copy(file, folder)) for file in files]


@pytest.fixture
def make_trainer(dataset, tmp_path, monkeypatch):
    """Trainers of any class, dataset and settings on the tiny plans, initialised, results in a folder of their own."""
    from nnunet_moe.trainers.moesd import nnUNetTrainerMoESD

    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def make(trainer=nnUNetTrainerMoESD, *, num_modalities=3, labels=LABELS["labels"], ignore=False, **settings):
        plans = json.loads(dataset.plans_file.read_text())
        plans["continue_training"] = False
        configuration = plans["configurations"]["3d_tiny"]
        configuration["nnunet_moe"].update(settings)
        full = plans["configurations"]["3d_fullres"]
        full["normalization_schemes"] = full["normalization_schemes"][:1] * num_modalities
        full["use_mask_for_norm"] = full["use_mask_for_norm"][:1] * num_modalities
        names = {str(channel): f"m{channel}" for channel in range(num_modalities)}
        labels = json.loads(json.dumps(labels))
        if ignore:
            labels["labels"]["ignore"] = 3
        dataset_json = {"channel_names": names, "file_ending": ".nii.gz", **labels}
        made = trainer(plans, "3d_tiny", 0, dataset_json, torch.device("cpu"))
        made.initialize()
        return made

    return make


@pytest.fixture(scope="session")
def demo_run(preloaded_python, tmp_path_factory) -> Path:
    """What `nnunet_moe demo` leaves, after a training too short to learn anything.

    Heads and network are as small as the tests' own. What it printed is in a text file of the same name beside it.
    """
    from nnunet_moe.commands.demo import demo

    folder = tmp_path_factory.mktemp("demo") / "nnunet_moe_demo"
    length = {**demo.TRAINING_LENGTH, "num_epochs": 1, "num_iterations_per_epoch": 2}

    def write_cohort_and_fingerprint(raw: Path, **more):
        write_phantom_cohort(raw, **more)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("raw", "preprocessed", "results"):
                patch.setenv(f"nnUNet_{name}", str(folder / f"nnUNet_{name}"))
            extract_nnunets_fingerprint(demo.DATASET_ID)

    def add_smaller_configuration(plans_file, name, **more):
        add_small_configuration(plans_file, name, **{**more, "features_per_stage": [4, 6, 8]})

    with pytest.MonkeyPatch.context() as patch, folder.with_suffix(".txt").open("w") as out, redirect_stdout(out):
        patch.setattr(demo, "write_phantom_cohort", write_cohort_and_fingerprint)
        patch.setattr(demo, "PHANTOM_SHAPE", (32, 36, 32))
        patch.setattr(demo, "TRAINING_LENGTH", length)
        patch.setattr(demo, "add_small_configuration", add_smaller_configuration)
        patch.setattr(sys, "executable", str(preloaded_python))
        main(["demo", "-o", str(folder), "-device", "cpu"])
    return folder
