"""Plan and preprocess datasets whose training cases may have missing files, as nnU-Net's command does."""

import shutil
from pathlib import Path
from typing import Any

import nnunetv2
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_moe.commands.plan_and_preprocess.dataset_json import num_training
from nnunet_moe.commands.plan_and_preprocess.fingerprint import (
    AXES_FILE,
    IncompleteDatasetFingerprintExtractor,
    without_foreground,
)
from nnunet_moe.commands.plan_and_preprocess.memory import bytes_per_process, bytes_to_read, choose_processes
from nnunet_moe.commands.plan_and_preprocess.normalizations import look_alikes, normalization_table
from nnunet_moe.commands.plan_and_preprocess.raw_dataset import (
    read_raw_dataset,
    verify_integrity,
    visible_cases,
)
from nnunet_moe.commands.plan_and_preprocess.references import copy_references
from nnunet_moe.commands.plan_and_preprocess.request import FINGERPRINT_PROCESSES, Request
from nnunet_moe.commands.plan_and_preprocess.splits import read_patients_and_splits, split_by_patient
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.preprocessing import AXIS_CODES, use_missing_modality_preprocessor
from nnunet_moe.reports.availability import availability_tables
from nnunet_moe.runtime.environment import variable
from nnunet_moe.runtime.files import atomic_write, dataset_name, nnunet_folder
from nnunet_moe.runtime.host_memory import available_bytes
from nnunet_moe.runtime.json_files import read_json
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import read_settings

NUM_THREADS = "nnUNet_n_proc_DA"
"""The number of processes that augment. Trainings accept 0, but nnU-Net's planners use it as a thread count."""


def plan_and_preprocess(request: Request) -> dict[str, Availability]:
    """Write fingerprint, plans and preprocessed cases to the same folders as nnU-Net's command.

    For complete datasets, the files equal nnU-Net's. The plans also have the key `axis_codes`.

    Returns:
        Dataset -> the available modalities of its training cases.

    Raises:
        FileError: the table of the patients or the existing splits cannot be read.
        ModalityError: cases cannot be used; the message names all of them.
        ModelError: a dataset does not exist, or nnU-Net's folders are not set.
        SettingsError: the planner does not exist, or a configuration uses the data of another one.
    """
    names = list(dict.fromkeys(_unambiguous(dataset_name(name)) for name in request.datasets))
    planner = _planner(request.planner)
    for name in names:  # mistakes in them would otherwise show after hours
        read_patients_and_splits(name)
    found = {name: _fingerprint(name, request) for name in names}
    print("Experiment planning...")
    memory: Any = request.gpu_memory_target  # nnU-Net also accepts None for a number, against its annotations
    options = (planner, memory, DefaultPreprocessor.__name__, request.target_spacing, request.plans_name)
    identifier = ""
    with variable(NUM_THREADS, str(max(1, get_allowed_n_proc_DA()))):
        for name in names:
            _, identifier = plan_experiment_dataset(_number(name), *options)
            _add_axis_codes(nnunet_folder(nnUNet_preprocessed) / name, identifier)
    for name in names:
        _print_normalizations(name, identifier)
        for line in split_by_patient(name, list(found[name].files)):
            print(line)
    if request.preprocess:
        configurations = {name: _configurations(name, identifier, request) for name in names}
        for name in names:
            _preprocess(name, identifier, configurations[name], request)
    return found


def _unambiguous(name: str) -> str:
    """Return the name of a dataset, and make sure that no other dataset has its number."""
    if (found := dataset_name(str(_number(name)))) != name:
        raise ModelError(f"-d {name}: {found} has the same number. Give every dataset its own number.")
    return name


def _number(name: str) -> int:
    return int(name.removeprefix("Dataset").partition("_")[0])


def _planner(name: str) -> type[ExperimentPlanner]:
    """Return a subclass of the planner that does not take hidden files for cases, and reads numbers written as text.

    It has the planner's name, because nnU-Net writes the name into the plans.
    """
    folder = Path(nnunetv2.__path__[0]) / "experiment_planning"
    planner = recursive_find_python_class(str(folder), name, current_module="nnunetv2.experiment_planning")
    if not (isinstance(planner, type) and issubclass(planner, ExperimentPlanner)):
        raise SettingsError(
            f"nnU-Net has no planner {name!r}. Choose one with -pl: ExperimentPlanner, nnUNetPlannerResEncM, "
            "nnUNetPlannerResEncL, ..."
        )

    def __init__(self: ExperimentPlanner, *arguments: Any, **options: Any) -> None:  # noqa: N807
        planner.__init__(self, *arguments, **options)
        self.dataset = visible_cases(self.dataset)
        self.dataset_json["numTraining"] = num_training(self.dataset_json)

    return type(planner.__name__, (planner,), {"__init__": __init__})


def _fingerprint(name: str, request: Request) -> Availability:
    """Compute or read the fingerprint, and print which modalities the cases have."""
    print(f"{name}: fingerprint extraction...")
    dataset = read_raw_dataset(name)
    if unused := dataset.unused():
        print(f"Not used, because the case has no image or the file has another ending: {', '.join(unused)}")
    num_processes, line = choose_processes(
        bytes_to_read([case["images"] for case in dataset.cases.values()], len(dataset.modalities)),
        min(request.fingerprint_processes or FINGERPRINT_PROCESSES, len(dataset.cases)),
        available_bytes(),
        is_default=request.fingerprint_processes is None,
        what="Reading the cases needs",
        flag="-npfp",
    )
    print(f"{name}: {line}")
    if request.verify or request.refuse_copies:
        verify_integrity(
            dataset,
            num_processes,
            refuse_copies=request.refuse_copies,
            show_progress=request.show_progress,
        )
    extractor = IncompleteDatasetFingerprintExtractor(name, num_processes, verbose=request.verbose)
    extractor.show_progress_bar = request.show_progress
    fingerprint = extractor.run(overwrite_existing=request.clean)
    test, problems = dataset.test_availability()
    availability = extractor.availability
    print(availability_tables(availability))
    warnings = (
        *extractor.notes,
        *availability.warnings(test),
        *without_foreground(fingerprint, availability),
        *problems,
    )
    for warning in warnings:
        print(f"WARNING: {warning}")
    if not all(map(all, availability.codes.values())):
        print(
            "Some cases are incomplete: only trainers of this package can train on them. nnU-Net's own would get NaN."
        )
    return availability


def _add_axis_codes(folder: Path, plans_identifier: str) -> None:
    """Write the directions of the axes of the training images into the plans, which every prediction has."""
    axes, plans_file = folder / AXES_FILE, folder / f"{plans_identifier}.json"
    if axes.exists():  # earlier versions wrote none
        plans = read_json(plans_file)
        plans[AXIS_CODES] = read_json(axes)
        with atomic_write(plans_file) as unfinished:
            save_json(plans, str(unfinished), sort_keys=False)  # as nnU-Net writes plans


def _print_normalizations(name: str, plans_identifier: str) -> None:
    """Print how each modality is normalized, which all configurations share, and why."""
    folder = nnunet_folder(nnUNet_preprocessed) / name
    dataset_json, plans = read_json(folder / "dataset.json"), read_json(folder / f"{plans_identifier}.json")
    planned = next(each for each in plans["configurations"].values() if "normalization_schemes" in each)
    print(normalization_table(dataset_json, planned["normalization_schemes"], planned["use_mask_for_norm"]))
    for warning in look_alikes(dataset_json):
        print(f"WARNING: {warning}")


def _configurations(name: str, plans_identifier: str, request: Request) -> dict[str, tuple[ConfigurationManager, int]]:
    """Return the requested configurations that the plans have, with the number of processes for each."""
    folder = nnunet_folder(nnUNet_preprocessed) / name
    plans = PlansManager(str(folder / f"{plans_identifier}.json"))
    fingerprint = read_json(folder / "dataset_fingerprint.json")
    configurations = {}
    for configuration_name, num_processes in zip(request.configurations, request.processes(), strict=True):
        if configuration_name not in plans.available_configurations:
            print(f"{name}: {plans_identifier} has no configuration {configuration_name}. Skipped.")
            continue
        configuration = plans.get_configuration(configuration_name)
        if read_settings(Settings, configuration.configuration).modality_code is not None:
            raise SettingsError(
                f"Configuration {configuration_name} is for dedicated models ('modality_code'). They train on the "
                "data of the configuration from which it inherits. Preprocess that configuration."
            )
        use_missing_modality_preprocessor(configuration)
        num_channels = len(configuration.normalization_schemes)
        num_processes, line = choose_processes(
            bytes_per_process(fingerprint, num_channels, configuration.spacing, plans.transpose_forward),
            min(num_processes, len(fingerprint["spacings"])),
            available_bytes(),
            is_default=request.num_processes is None,
        )
        print(f"{name}, {configuration_name}: {line}")
        configurations[configuration_name] = configuration, num_processes
    if not configurations:
        raise SettingsError(
            f"-c {' '.join(request.configurations)}: {plans_identifier} has no such configuration. Choose from "
            f"{', '.join(plans.available_configurations)}."
        )
    return configurations


def _preprocess(
    name: str, plans_identifier: str, configurations: dict[str, tuple[ConfigurationManager, int]], request: Request
) -> None:
    """Preprocess the configurations of a dataset, and copy its segmentations next to them."""
    for configuration_name, (configuration, num_processes) in configurations.items():
        print(f"{name}: preprocessing for {configuration_name}...")
        preprocessor = configuration.preprocessor_class(verbose=request.verbose)
        preprocessor.show_progress_bar = request.show_progress
        try:
            preprocessor.run(name, configuration_name, plans_identifier, num_processes)
        except BaseException:  # a training would mistake the finished cases for all cases
            folder = nnunet_folder(nnUNet_preprocessed) / name / configuration.data_identifier
            shutil.rmtree(folder, ignore_errors=True)
            raise
    num_processes = min(number for _, number in configurations.values())
    copy_references(read_raw_dataset(name), nnunet_folder(nnUNet_preprocessed) / name, num_processes)
