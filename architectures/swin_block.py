"""The parts of the Swin U-Net that come from timm."""

import torch.nn.functional as F  # noqa: N812
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor

__all__ = ["PatchMerging", "SwinBlock"]


class SwinBlock(SwinTransformerBlock):
    """timm's block, corrected for maps that are not multiples of the window.

    timm pads a map after the shift, but its attention mask is made for a map that is padded before the shift. So
    windows at the end of an axis see the beginning of the axis. This class pads before the shift.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        return super()._attn(padded)[:, :height, :width]
