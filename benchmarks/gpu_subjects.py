"""What `gpu.py` measures: trainers with a batch, for plans that need no data, in float16 or float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from gpu_jobs import FROM_THE_START, M4OE, TRAINERS, Plan
from measuring import initialized, levels_of
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_moe.images.phantom import SIGNAL
from nnunet_moe.prediction import unwrap
from nnunet_moe.settings.plans import PLANS_KEY
from nnunet_moe.trainers.external import nnunet_moe_trainers

DATASET = "Dataset904_GPU"


@dataclass
class Subject:
    """A trainer with a batch."""

    made: Any
    batch: dict
    before: int
    """Bytes on the device before the trainer was made."""

    @property
    def loss_scale(self) -> float | None:
        """The scale of the loss; None without a scaler."""
        return None if self.made.grad_scaler is None else self.made.grad_scaler.get_scale()

    def step(self) -> None:
        """Make a training step; the gradients are freed at its end, because several trainers share the device."""
        self.made.train_step(self.batch)
        self.made.optimizer.zero_grad(set_to_none=True)

    def step_without_compiler(self) -> None:
        """Make a training step as if the network were not compiled."""
        with torch.compiler.set_stance("force_eager"):
            self.step()

    @contextmanager
    def predicting(self) -> Iterator[Callable[[], None]]:
        """Yield a function that predicts one patch, which is on the device, as nnU-Net's predictor does."""
        network, device = self.made.network, self.made.device
        patch = self.batch["data"][:1].to(device)

        def predict() -> None:
            with torch.inference_mode(), torch.autocast("cuda") if device.type == "cuda" else nullcontext():
                network(patch)

        network.eval()
        self.made.set_deep_supervision_enabled(False)
        try:
            yield predict
        finally:
            self.made.set_deep_supervision_enabled(True)
            network.train()


def subject_of(method: str, plan: Plan, device: torch.device, *, width: int, compiled: bool = False) -> Subject:
    """Make the trainer of a method, always with the same weights, and a batch.

    Args:
        method: a key of `TRAINERS`.
        plan: the configuration.
        device: the device.
        width: channels of M4oE's first stage.
        compiled: whether nnU-Net compiles network and loss, which it otherwise does only on GPUs.
    """
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    name, settings = TRAINERS[method]
    trainer = nnUNetTrainer if name == "nnUNetTrainer" else getattr(nnunet_moe_trainers, name)
    plans = plans_of(plan, {**FROM_THE_START, "width": width, **settings})
    torch.manual_seed(0)
    made = initialized(trainer, plans, "measured", device, _do_i_compile=lambda _: compiled)
    made.network.train()
    teachers = getattr(unwrap(made.network), "teachers", None)
    if teachers is not None:
        teachers[0] = True  # LCKD elects none before its first epoch ends
    return Subject(made, batch_for(made, plan, one_channel=method == M4OE), before)


def batch_for(made: Any, plan: Plan, *, one_channel: bool) -> dict:
    """Return noise with a bright block, which is the label, as nnU-Net's loader gives it.

    Args:
        made: the trainer.
        plan: its configuration.
        one_channel: whether each item has one channel, in turn; the others are missing. Else items are complete.
    """
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(plan.batch_size, 1, *plan.patch_size, dtype=torch.int16)
    label[(..., *(slice(side // 4, side // 2) for side in plan.patch_size))] = 1
    data = torch.randn(plan.batch_size, len(SIGNAL), *plan.patch_size, generator=generator) + 2.0 * label
    if one_channel:
        missing = torch.arange(len(SIGNAL)) != (torch.arange(plan.batch_size) % len(SIGNAL))[:, None]
        data[missing] = torch.nan
    target = levels_of(made, label)
    if made.device.type == "cuda":  # nnU-Net's loader pins memory, so that copies do not make the host wait
        data = data.pin_memory()
        target = (
            [each.contiguous().pin_memory() for each in target] if isinstance(target, list) else target.pin_memory()
        )
    return {"data": data, "target": target}


def plans_of(plan: Plan, settings: dict) -> dict:
    """Return plans with the configuration `measured`, as nnU-Net's planner writes them for its plain U-Net."""
    stages, dimensions = len(plan.features), len(plan.patch_size)
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(plan.features),
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * stages,
            "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "made",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": plan.batch_size,
        "patch_size": list(plan.patch_size),
        "spacing": [1.0] * dimensions,
        "normalization_schemes": ["ZScoreNormalization"] * len(SIGNAL),
        "use_mask_for_norm": [False] * len(SIGNAL),
        "batch_dice": dimensions == 2,
        "architecture": architecture,
        PLANS_KEY: settings,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"measured": configuration},
    }


@contextmanager
def precision(device: torch.device, *, half: bool) -> Iterator[None]:
    """Let a training step inside the block compute in float16, as nnU-Net does on a GPU, or in float32 without TF32.

    Each step needs its own block, because autocast keeps the weights that it has cast until its end.
    """
    if device.type != "cuda":
        with torch.autocast("cpu", torch.float16, enabled=half):
            yield
        return
    dtype, tf32 = torch.get_autocast_dtype("cuda"), torch.backends.cudnn.allow_tf32
    if not half:  # where nnU-Net turns autocast on, it casts to float32
        torch.set_autocast_dtype("cuda", torch.float32)
        torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_autocast_dtype("cuda", dtype)
        torch.backends.cudnn.allow_tf32 = tf32
