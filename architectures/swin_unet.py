"""Swin U-Net, a U-Net of windowed attention in 2D, with experts in the place of its blocks' perceptrons.

Cao et al., "Swin-Unet: Unet-like pure transformer for medical image segmentation", ECCV workshops 2022, in the small
form of M4oE (Jiang, Shen, MICCAI 2024): patches of 4, two blocks a stage, windows of 7.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

PATCH, WINDOW, MLP_RATIO, DROP_PATH = 4, 7, 4, 0.2
DEPTHS, HEADS = (2, 2, 2, 2), (3, 6, 12, 24)
DIVISOR = PATCH * 2 ** (len(DEPTHS) - 1)
"""The network takes images whose sides are multiples of this."""

MakeMLP = Callable[[int], nn.Module | None]
"""Channels -> what takes the place of a block's perceptron; None leaves it."""


class SwinUNet(nn.Module):
    """An encoder and a decoder, as nnU-Net's networks have them.

    Args:
        num_outputs: classes or regions.
        size: of the images that it is planned for, height and width, multiples of 32.
        width: channels of the first stage, a multiple of its 3 heads.
        encoder_mlp, decoder_mlp: make the perceptrons of the blocks.
    """

    def __init__(
        self, num_outputs: int, size: Sequence[int], width: int, *, encoder_mlp: MakeMLP, decoder_mlp: MakeMLP
    ) -> None:
        super().__init__()
        maps = [(size[0] // PATCH // 2**stage, size[1] // PATCH // 2**stage) for stage in range(len(DEPTHS))]
        rates = [rates.tolist() for rates in torch.linspace(0, DROP_PATH, sum(DEPTHS)).split(DEPTHS)]
        widths = [width * 2**stage for stage in range(len(DEPTHS))]
        self.encoder = SwinEncoder(widths, maps, rates, encoder_mlp)
        self.decoder = SwinDecoder(num_outputs, widths[:-1], maps[:-1], rates[:-1], decoder_mlp)


class SwinEncoder(nn.Module):
    """Patches of one channel, then stages of blocks, each on maps of half the size and twice the width of the last."""

    def __init__(
        self,
        widths: Sequence[int],
        maps: Sequence[tuple[int, int]],
        rates: Sequence[Sequence[float]],
        make_mlp: MakeMLP,
    ) -> None:
        super().__init__()
        self.widths, self.maps = tuple(widths), tuple(maps)
        self.patches = nn.Conv2d(1, widths[0], PATCH, PATCH)
        self.norm = nn.LayerNorm(widths[0])
        self.merging = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.stages = nn.ModuleList(
            blocks(width, size, number, of_stage, make_mlp)
            for number, (width, size, of_stage) in enumerate(zip(widths, maps, rates, strict=True))
        )
        self.last_norm = nn.LayerNorm(widths[-1])
        self.apply(initialize)

    def embed(self, image: Tensor) -> Tensor:
        """`(B, 1, H, W)` to tokens `(B, H / 4, W / 4, C)`."""
        return self.norm(_in_full(self.patches(image).permute(0, 2, 3, 1), self.norm))

    def encode(self, tokens: Tensor) -> list[Tensor]:
        """`(B, H / s, W / s, C_stage)` that each stage begins with; of the last one what it ends with, normalised."""
        skips = []
        for stage, merging in zip(self.stages, [*self.merging, None], strict=True):
            skips.append(tokens)
            tokens = stage(tokens)
            if merging is not None:
                tokens = _in_full(merging(tokens), self.norm)
        return [*skips[:-1], self.last_norm(tokens)]

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.encode(self.embed(image))


class SwinDecoder(nn.Module):
    """Up again, with the encoder's maps beside those from below; the last step is by four, to the image's size."""

    def __init__(
        self,
        num_outputs: int,
        widths: Sequence[int],
        maps: Sequence[tuple[int, int]],
        rates: Sequence[Sequence[float]],
        make_mlp: MakeMLP,
    ) -> None:
        super().__init__()
        self.expanding = nn.ModuleList(PatchExpanding(2 * width, width, 2) for width in widths)
        self.joining = nn.ModuleList(nn.Linear(2 * width, width) for width in widths)
        self.stages = nn.ModuleList(
            blocks(width, size, number, of_stage, make_mlp)
            for number, (width, size, of_stage) in enumerate(zip(widths, maps, rates, strict=True))
        )
        self.norm = nn.LayerNorm(widths[0])
        self.to_pixels = PatchExpanding(widths[0], widths[0], PATCH)
        # named as nnU-Net names what it does not take from pretrained weights
        self.seg_layers = nn.ModuleList([nn.Conv2d(widths[0], num_outputs, 1)])
        self.apply(initialize)

    def forward(self, skips: list[Tensor]) -> Tensor:
        """The encoder's maps, the finest first, to logits `(B, outputs, H, W)`."""
        *skips, tokens = skips
        for stage in reversed(range(len(self.stages))):
            tokens = torch.cat((skips[stage], self.expanding[stage](tokens)), dim=-1)
            tokens = self.stages[stage](_in_full(self.joining[stage](tokens), self.norm))
        return self.seg_layers[0](self.to_pixels(self.norm(tokens)).permute(0, 3, 1, 2))


class PatchExpanding(nn.Module):
    """The opposite of merging: each token becomes `factor` x `factor` tokens of `out_channels`."""

    def __init__(self, channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(channels, factor**2 * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(B, H, W, C)` to `(B, H f, W f, C')`."""
        squares = self.expand(tokens).unflatten(-1, (self.factor, self.factor, -1))
        return self.norm(squares.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3))


class SwinBlock(SwinTransformerBlock):
    """timm's, on maps of any size: it pads after the shift, where the mask is that of a map that was padded before.

    So windows at the end of an axis would see its beginning.
    """

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        rows, columns = self.window_size
        padded = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        return super()._attn(padded)[:, :height, :width]


def blocks(width: int, size: tuple[int, int], stage: int, rates: Sequence[float], make_mlp: MakeMLP) -> nn.Sequential:
    """A stage's blocks, every second one with shifted windows; a map smaller than a window is one window.

    Args:
        width: channels.
        size: of the map that it is planned for.
        stage: its number, 0 for that with the largest maps.
        rates: of drop path, one a block.
        make_mlp: makes the perceptrons.
    """
    made = []
    for number, rate in enumerate(rates):
        block = SwinBlock(
            width,
            size,
            HEADS[stage],
            window_size=WINDOW,
            shift_size=WINDOW // 2 * (number % 2),
            mlp_ratio=MLP_RATIO,
            drop_path=rate,
        )
        if (mlp := make_mlp(width)) is not None:
            block.register_module("mlp", mlp)
        made.append(block)
    return nn.Sequential(*made)


def _in_full(tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
    """In the weights' precision, which under autocast a stage's sum of residuals should have."""
    return tokens.to(norm.weight.dtype)


def initialize(module: nn.Module) -> None:
    """Draw a linear layer's weights as transformers do; to be applied to all modules of a network."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
