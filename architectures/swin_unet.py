"""Swin U-Net, a 2D U-Net with windowed attention, where experts can replace the perceptrons of the blocks.

Source: Cao et al., "Swin-Unet: Unet-like pure transformer for medical image segmentation", ECCV workshops 2022. The
size is the small one of M4oE (Jiang, Shen, MICCAI 2024): patches of 4 pixels, two blocks in a stage, windows of 7
tokens.

timm's blocks are imported only where they are built: nnU-Net imports all our trainers to find one, and timm would add
about a second to each of its commands.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

PATCH, WINDOW, MLP_RATIO, DROP_PATH = 4, 7, 4, 0.2
DEPTHS, HEADS = (2, 2, 2, 2), (3, 6, 12, 24)
DIVISOR = PATCH * 2 ** (len(DEPTHS) - 1)
"""The sides of images must be multiples of this number of pixels."""

MakeMLP = Callable[[int], nn.Module | None]
"""Channels -> the module that replaces a block's perceptron; None keeps the perceptron."""


class SwinUNet(nn.Module):
    """Swin U-Net with the parts `encoder` and `decoder`, as in nnU-Net's networks.

    Args:
        num_outputs: number of classes or regions.
        size: height and width of the planned images in pixels, multiples of 32.
        width: channels of the first stage, a multiple of its 3 heads.
        encoder_mlp: makes the perceptrons of the encoder's blocks.
        decoder_mlp: makes the perceptrons of the decoder's blocks.
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
    """The encoder: patches of one channel, then stages of blocks.

    From one stage to the next, the maps halve in size and double in width.

    Args:
        widths: channels of the stages, the finest first.
        maps: height and width of the stages' maps in tokens, the finest first.
        rates: rates of drop path, for each block of each stage.
        make_mlp: makes the perceptrons of the blocks.
    """

    def __init__(
        self,
        widths: Sequence[int],
        maps: Sequence[tuple[int, int]],
        rates: Sequence[Sequence[float]],
        make_mlp: MakeMLP,
    ) -> None:
        from nnunet_moe.architectures.swin_block import PatchMerging

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
        """Embed images `(B, 1, H, W)` as tokens `(B, H / 4, W / 4, C)`."""
        return self.norm(_in_full(self.patches(image).permute(0, 2, 3, 1), self.norm))

    def encode(self, tokens: Tensor) -> list[Tensor]:
        """Compute the maps `(B, H / s, W / s, C_stage)` for the decoder, the finest first.

        These are the inputs of the stages, except for the last stage, where it is the normalized output.
        """
        skips = []
        for stage, merging in zip(self.stages, [*self.merging, None], strict=True):
            skips.append(tokens)
            tokens = stage(tokens)
            if merging is not None:
                tokens = _in_full(merging(tokens), self.norm)
        return [*skips[:-1], self.last_norm(tokens)]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Embed and encode images `(B, 1, H, W)`."""
        return self.encode(self.embed(image))


class SwinDecoder(nn.Module):
    """The decoder: it joins the expanded tokens of each stage with the encoder's map; the last step expands by four.

    Args:
        num_outputs: number of classes or regions.
        widths: channels of the stages, the finest first, without the bottleneck.
        maps: height and width of the stages' maps in tokens, the finest first.
        rates: rates of drop path, for each block of each stage.
        make_mlp: makes the perceptrons of the blocks.
    """

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
        # nnU-Net does not load layers of this name from pretrained weights
        self.seg_layers = nn.ModuleList([nn.Conv2d(widths[0], num_outputs, 1)])
        self.apply(initialize)

    def forward(self, skips: list[Tensor]) -> Tensor:
        """Decode the encoder's maps, the finest first, to logits `(B, outputs, H, W)`."""
        *skips, tokens = skips
        for stage in reversed(range(len(self.stages))):
            tokens = torch.cat((skips[stage], self.expanding[stage](tokens)), dim=-1)
            tokens = self.stages[stage](_in_full(self.joining[stage](tokens), self.norm))
        return self.seg_layers[0](self.to_pixels(self.norm(tokens)).permute(0, 3, 1, 2))


class PatchExpanding(nn.Module):
    """The opposite of patch merging: each token becomes `factor` x `factor` tokens with `out_channels` channels.

    Args:
        channels: C.
        out_channels: C'.
        factor: f.
    """

    def __init__(self, channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(channels, factor**2 * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Expand tokens `(B, H, W, C)` to `(B, H f, W f, C')`."""
        squares = self.expand(tokens).unflatten(-1, (self.factor, self.factor, -1))
        return self.norm(squares.permute(0, 1, 3, 2, 4, 5).flatten(1, 2).flatten(2, 3))


def blocks(width: int, size: tuple[int, int], stage: int, rates: Sequence[float], make_mlp: MakeMLP) -> nn.Sequential:
    """Build the blocks of a stage; every second one has shifted windows.

    A map that is smaller than a window is treated as one window.

    Args:
        width: number of channels.
        size: height and width of the planned map in tokens.
        stage: number of the stage, 0 for the one with the largest maps.
        rates: rates of drop path, one for each block.
        make_mlp: makes the perceptrons of the blocks.
    """
    from nnunet_moe.architectures.swin_block import SwinBlock

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
    """Convert tokens to the precision of the weights, which the sum of residuals should keep under autocast."""
    return tokens.to(norm.weight.dtype)


def initialize(module: nn.Module) -> None:
    """Draw the weights of a linear layer from a truncated normal with SD 0.02; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
