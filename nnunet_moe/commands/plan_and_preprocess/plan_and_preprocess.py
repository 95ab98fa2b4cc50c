"""`nnunet_moe plan_and_preprocess`: nnU-Net's command for datasets whose training cases may lack files."""

import shutil
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess_dataset
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_moe.commands.plan_and_preprocess.fingerprint import (
    IncompleteDatasetFingerprintExtractor,
    without_foreground,
)
from nnunet_moe.commands.plan_and_preprocess.raw_dataset import read_raw_dataset, verify_integrity
from nnunet_moe.commands.plan_and_preprocess.request import Request
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.preprocessing import use_missing_modality_preprocessor
from nnunet_moe.reports.availability import availability_tables
from nnunet_moe.runtime.environment import variable
from nnunet_moe.runtime.files import dataset_name, nnunet_folder
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import read_settings

NUM_THREADS = "nnUNet_n_proc_DA"
"""Of processes that augment, where trainings may have none; nnU-Net's planners take it for a number of threads."""


def plan_and_preprocess(request: Request) -> dict[str, Availability]:
    """Fingerprint, plans and preprocessed cases, where nnU-Net's command puts them; for complete datasets the same.

    Returns:
        Dataset -> what its training cases have.

    Raises:
        ModalityError: cases that cannot be used; all of them are named.
        ModelError: no such dataset, or nnU-Net's folders are not set.
        SettingsError: no such planner, or a configuration that cannot be preprocessed by itself.
    """
    names = list(dict.fromkeys(_unambiguous(dataset_name(name)) for name in request.datasets))
    _require_planner(request.planner)
    found = {name: _fingerprint(name, request) for name in names}
    print("Experiment planning...")
    datasets: Any = names  # names will do as well as ids, and None for a number, whatever nnU-Net's annotations say
    memory: Any = request.gpu_memory_target
    options = (request.planner, memory, DefaultPreprocessor.__name__, request.target_spacing, request.plans_name)
    with variable(NUM_THREADS, str(max(1, get_allowed_n_proc_DA()))):
        identifier = plan_experiments(datasets, *options)
    assert identifier is not None  # of the last dataset; there is one
    if request.preprocess:
        configurations = {name: _configurations(name, identifier, request) for name in names}
        for name in names:
            _preprocess(name, identifier, configurations[name], request)
    return found


def _unambiguous(name: str) -> str:
    """A dataset's name, if nnU-Net finds no other one by its number."""
    if (found := dataset_name(str(_number(name)))) != name:
        raise ModelError(f"-d {name}: by its number nnU-Net finds {found}. Give every dataset a number of its own.")
    return name


def _number(name: str) -> int:
    return int(name.removeprefix("Dataset").partition("_")[0])


def _require_planner(name: str) -> None:
    folder = Path(nnunetv2.__path__[0]) / "experiment_planning"
    planner = recursive_find_python_class(str(folder), name, current_module="nnunetv2.experiment_planning")
    if not (isinstance(planner, type) and issubclass(planner, ExperimentPlanner)):
        raise SettingsError(
            f"nnU-Net has no planner {name!r}. Name one by -pl: ExperimentPlanner, nnUNetPlannerResEncM, "
            "nnUNetPlannerResEncL, ..."
        )


def _fingerprint(name: str, request: Request) -> Availability:
    """Make or read the fingerprint, and tell what the cases have."""
    print(f"{name}: fingerprint extraction...")
    dataset = read_raw_dataset(name)
    if unused := dataset.unused():
        print(f"Not used, for want of an image or for another ending: {', '.join(unused)}")
    if request.verify:
        verify_integrity(dataset, request.fingerprint_processes, show_progress=request.show_progress)
    extractor = IncompleteDatasetFingerprintExtractor(name, request.fingerprint_processes, verbose=request.verbose)
    extractor.show_progress_bar = request.show_progress
    fingerprint = extractor.run(overwrite_existing=request.clean)
    test, problems = dataset.test_availability()
    availability = extractor.availability
    print(availability_tables(availability))
    warnings = (*availability.warnings(test), *without_foreground(fingerprint, availability), *problems)
    for warning in warnings:
        print(f"WARNING: {warning}")
    if not all(map(all, availability.codes.values())):
        print("There are incomplete cases: only trainers of this package can train on them, nnU-Net's own get NaN.")
    return availability


def _configurations(name: str, plans_identifier: str, request: Request) -> dict[str, tuple[ConfigurationManager, int]]:
    """The configurations that the plans have, and how many processes preprocess each; found to be possible."""
    plans = PlansManager(str(nnunet_folder(nnUNet_preprocessed) / name / f"{plans_identifier}.json"))
    configurations = {}
    for configuration_name, num_processes in zip(request.configurations, request.processes(), strict=True):
        if configuration_name not in plans.available_configurations:
            print(f"{name}: {plans_identifier} has no configuration {configuration_name}. Skipped.")
            continue
        configuration = plans.get_configuration(configuration_name)
        if read_settings(Settings, configuration.configuration).modality_code is not None:
            raise SettingsError(
                f"Configuration {configuration_name} is for dedicated models ('modality_code'). They train on the "
                "data of the configuration that it inherits from: preprocess that one."
            )
        use_missing_modality_preprocessor(configuration)
        configurations[configuration_name] = configuration, num_processes
    if not configurations:
        raise SettingsError(
            f"There is nothing to preprocess for -c {' '.join(request.configurations)}: {plans_identifier} has "
            f"{', '.join(plans.available_configurations)}."
        )
    return configurations


def _preprocess(
    name: str, plans_identifier: str, configurations: dict[str, tuple[ConfigurationManager, int]], request: Request
) -> None:
    """Preprocess a dataset's configurations, and copy its segmentations beside them."""
    for configuration_name, (configuration, num_processes) in configurations.items():
        print(f"{name}: preprocessing for {configuration_name}...")
        preprocessor = configuration.preprocessor_class(verbose=request.verbose)
        preprocessor.show_progress_bar = request.show_progress
        try:
            preprocessor.run(name, configuration_name, plans_identifier, num_processes)
        except BaseException:  # a training would take the cases done so far for all
            folder = nnunet_folder(nnUNet_preprocessed) / name / configuration.data_identifier
            shutil.rmtree(folder, ignore_errors=True)
            raise
    preprocess_dataset(_number(name), plans_identifier, [], [])  # the segmentations alone
