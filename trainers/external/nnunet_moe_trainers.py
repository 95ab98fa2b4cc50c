"""What nnU-Net finds through `nnUNet_extTrainer`: re-exports alone.

nnU-Net imports every module of this folder and drops it again; the classes must live elsewhere to stay picklable.
"""

from nnunet_moe.trainers.modality_dropout import nnUNetTrainerModalityDropout
from nnunet_moe.trainers.moesd import nnUNetTrainerMoESD

__all__ = ["nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout"]
