"""Estimate the memory and the disk that the jobs of a study need, before it starts."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_moe.commands.study.jobs import PREPROCESS
from nnunet_moe.commands.study.machine import Machine
from nnunet_moe.commands.study.models import SeededRun, plans_of
from nnunet_moe.commands.study.plan import StudyPlan
from nnunet_moe.models.networks import find_trainer, planned_network
from nnunet_moe.runtime.files import nnunet_folder
from nnunet_moe.runtime.host_memory import available_bytes
from nnunet_moe.runtime.json_files import read_json

REFERENCES = {2: (85e6, 12), 3: (560e6, 2)}
"""Dimensions -> the feature map size and batch size that nnU-Net's planner takes for 8 GB of GPU memory."""
REFERENCE_BYTES = 8e9
PER_PARAMETER = 12
"""Bytes of weight, gradient and momentum of a parameter in single precision."""
VIEWS = 1.1
"""The memory of a step with two views, relative to nnU-Net's; measured was 1.08. The views run one after the other."""
BASE = 3e9
"""What a job needs on the host without images, in bytes: libraries, and processes that augment. A guess."""
NO_GPU = "-device is cuda, but torch finds no GPU here. Use -device cpu, or run the study on a machine with a GPU."
CHECKPOINTS = 2
"""nnU-Net keeps the best and the final checkpoint of a training, each with weights and momentum."""


@dataclass(frozen=True)
class Needs:
    """What the jobs of a study need, in bytes. None where it cannot be estimated."""

    gpu: Mapping[str, float | None]
    """Method -> GPU memory of a training."""
    host: float
    """Memory of the host for one job."""
    disk: float
    """Disk for the checkpoints of all trainings."""


def needs_of(plan: StudyPlan) -> Needs:
    """Estimate what the jobs need. The networks are built on the CPU, one after another.

    Raises:
        SettingsError: the plans cannot be used.
    """
    study, folder = plan.study, nnunet_folder(nnUNet_preprocessed) / plan.study.dataset
    manager, dataset_json = PlansManager(plans_of(study, plan.trained)[1]), read_json(folder / "dataset.json")
    num_outputs = manager.get_label_manager(dataset_json).num_segmentation_heads
    gpu, disk, channels = {}, 0.0, len(dataset_json["channel_names"])
    for model in _first_seeds(plan.trained):
        names = list(model.configurations.values())
        configuration = manager.get_configuration(names[0])
        trainer = model.method.trainer
        network = planned_network(trainer, manager, configuration, dataset_json, deep_supervision=True)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        gpu[model.method.name] = gpu_bytes(trainer, configuration, channels, num_outputs, parameters)
        num_trainings = len(names) * len(study.folds) * len(model.method.seeds)
        disk += num_trainings * CHECKPOINTS * 8 * parameters
    fingerprint = folder / "dataset_fingerprint.json"
    base = manager.get_configuration(study.configuration)
    images = (
        largest_case(read_json(fingerprint), base.spacing, manager.transpose_forward) if fingerprint.exists() else 0
    )
    # images in several copies, and logits on both grids with their probabilities
    return Needs(gpu, BASE + 4 * images * (5 * channels + 3 * num_outputs), disk)


def gpu_bytes(
    trainer: str, configuration: ConfigurationManager, channels: int, num_outputs: int, parameters: int
) -> float | None:
    """Estimate the GPU memory of a training, from the estimate of nnU-Net's planner; None for other networks.

    Args:
        trainer: name of the trainer.
        configuration: its configuration.
        channels: number of modalities.
        num_outputs: number of classes or regions.
        parameters: number of parameters of the trainer's network.
    """
    network_class = getattr(find_trainer(trainer), "network_class", None)
    if network_class is not None and network_class.takes_one_image_type:
        return None
    architecture = (
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        tuple(configuration.network_arch_init_kwargs_req_import),
    )
    network: Any = get_network_from_plans(*architecture, channels, num_outputs, allow_init=False)
    if not hasattr(network, "compute_conv_feature_map_size"):  # not one of the networks that nnU-Net plans itself
        return None
    features = network.compute_conv_feature_map_size(tuple(configuration.patch_size))
    stock = sum(parameter.numel() for parameter in network.parameters())
    reference, batch_size = REFERENCES[len(configuration.patch_size)]
    planned = REFERENCE_BYTES * float(features) / reference * configuration.batch_size / batch_size
    if network_class is None:
        return planned
    passes = channels / network_class.encoder_channels(channels, channels)  # of a shared encoder, one for each modality
    return VIEWS * passes * planned + PER_PARAMETER * max(0, parameters - stock)


def largest_case(fingerprint: Mapping[str, Any], spacing: Sequence[float], transpose: Sequence[int]) -> float:
    """Return the number of voxels of the largest case, on its own or on the target grid, whichever is more."""
    found = [0.0]
    for shape, original in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True):
        own = [original[axis] for axis in transpose]
        target = [*own[: len(own) - len(spacing)], *spacing]
        found.append(float(np.prod(shape)) * max(1.0, float(np.prod(np.divide(own, target)))))
    return max(found)


def describe_needs(plan: StudyPlan, machine: Machine) -> list[str]:
    """Return lines on what the jobs need, with a warning for what this machine does not have.

    Raises:
        SettingsError: the plans cannot be used.
    """
    lines = [f"WARNING: {NO_GPU}"] if machine.lacks_a_gpu else []
    if PREPROCESS in plan.jobs and PREPROCESS not in plan.done():
        return [*lines, "Memory and disk are estimated once the dataset is planned, before the first training."]
    needs = needs_of(plan)
    known = {method: number for method, number in needs.gpu.items() if number is not None}
    largest = max(known.values(), default=0.0)
    on_host = machine.device != "cuda"
    host = max(needs.host, BASE + largest) if on_host else needs.host
    lines.append(f"{_shown(needs.gpu)}{' On this device, it is memory of the host.' if on_host else ''}")
    lines.append(f"Memory of the host, estimated: {_gb(host)} for a job. Checkpoints: {_gb(needs.disk)} of disk.")
    if machine.profile is not None:
        return lines
    for gpu, memory in machine.gpu_memory().items():
        jobs_there = machine.devices.count(gpu)
        if jobs_there * largest > memory:
            lines.append(
                f"WARNING: {jobs_there} at a time need {_gb(jobs_there * largest)} of GPU memory, but GPU {gpu} has "
                f"{_gb(memory)}. Use another GPU, fewer jobs with -jobs, or a smaller batch or patch."
            )
    jobs, available = machine.jobs_at_a_time or 1, available_bytes()
    if available is not None and jobs * host > available:
        lines.append(
            f"WARNING: {jobs} at a time need {_gb(jobs * host)} of memory, but only {_gb(available)} are "
            "available. Use fewer jobs with -jobs, or a machine with more memory."
        )
    results = nnunet_folder(nnUNet_results)
    free = shutil.disk_usage(_existing(results)).free
    if needs.disk > free:
        lines.append(f"WARNING: {results} has only {_gb(free)} left for {_gb(needs.disk)} of checkpoints.")
    return lines


def _shown(gpu: Mapping[str, float | None]) -> str:
    shown = [f"{method} {'unknown' if number is None else _gb(number)}" for method, number in gpu.items()]
    why = " nnU-Net's planner has no estimate for the networks of 'unknown'." if None in gpu.values() else ""
    return f"GPU memory of a training, estimated: {', '.join(shown)}.{why}"


def _first_seeds(trained: Sequence[SeededRun]) -> list[SeededRun]:
    return [model for model in trained if model.seed == model.method.seeds[0]]


def _existing(folder: Path) -> Path:
    """Return the folder, or the first one above it that exists."""
    return next(each for each in (folder, *folder.resolve().parents) if each.exists())


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
