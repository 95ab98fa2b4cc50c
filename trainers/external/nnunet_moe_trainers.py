"""The module that nnU-Net finds through `nnUNet_extTrainer`; it only re-exports the trainers.

nnU-Net imports every module of this folder and then removes it from `sys.modules`. The classes must be defined
elsewhere, because pickle has to find their module.
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("nnunet_moe") is None:  # a checkout that is not installed
    sys.path.append(str(Path(__file__).parents[2]))

from nnunet_moe.trainers.dedicated import nnUNetTrainerDedicated
from nnunet_moe.trainers.lckd import (
    nnUNetTrainerLCKD,
    nnUNetTrainerLCKDFixedTeacher,
    nnUNetTrainerLCKDNoDistillation,
    nnUNetTrainerLCKDRandomTeacher,
    nnUNetTrainerLCKDSingle,
)
from nnunet_moe.trainers.m4oe import (
    nnUNetTrainerM4oE,
    nnUNetTrainerM4oEChannelGate,
    nnUNetTrainerM4oEDecoder,
    nnUNetTrainerM4oEEncoder,
    nnUNetTrainerM4oENoGate,
)
from nnunet_moe.trainers.m4oe_mae import nnUNetTrainerM4oEMAE
from nnunet_moe.trainers.moesd import (
    nnUNetTrainerDynamicStem,
    nnUNetTrainerModalityDropout,
    nnUNetTrainerMoE,
    nnUNetTrainerMoENoReg,
    nnUNetTrainerMoESD,
    nnUNetTrainerMoESDPaper,
    nnUNetTrainerMoEStem,
    nnUNetTrainerSD,
)
from nnunet_moe.trainers.swin_unet import nnUNetTrainerSwinUNet

__all__ = [
    "nnUNetTrainerDedicated",
    "nnUNetTrainerDynamicStem",
    "nnUNetTrainerLCKD",
    "nnUNetTrainerLCKDFixedTeacher",
    "nnUNetTrainerLCKDNoDistillation",
    "nnUNetTrainerLCKDRandomTeacher",
    "nnUNetTrainerLCKDSingle",
    "nnUNetTrainerM4oE",
    "nnUNetTrainerM4oEChannelGate",
    "nnUNetTrainerM4oEDecoder",
    "nnUNetTrainerM4oEEncoder",
    "nnUNetTrainerM4oEMAE",
    "nnUNetTrainerM4oENoGate",
    "nnUNetTrainerMoE",
    "nnUNetTrainerMoENoReg",
    "nnUNetTrainerMoESD",
    "nnUNetTrainerMoESDPaper",
    "nnUNetTrainerMoEStem",
    "nnUNetTrainerModalityDropout",
    "nnUNetTrainerSD",
    "nnUNetTrainerSwinUNet",
]
