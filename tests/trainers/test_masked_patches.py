import torch

from nnunet_moe.trainers.masked_patches import draw_masked_patches


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_so_many_patches_are_masked_in_each_item():
    for ratio, number in ((0.75, 9), (0.0, 0), (1.0, 12), (0.5, 6)):
        masked = draw_masked_patches(5, 3, 4, ratio, generator())
        assert masked.shape == (5, 3, 4) and masked.dtype == torch.bool
        assert masked.flatten(1).sum(dim=1).tolist() == [number] * 5


def test_the_draw_depends_on_the_generator_alone_and_differs_between_items():
    first, again, other = (draw_masked_patches(4, 4, 4, 0.75, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(item.flatten().tolist()) for item in first}) == 4


def test_every_patch_is_masked_as_often():
    drawn = draw_masked_patches(4000, 2, 4, 0.75, generator()).double().mean(dim=0)
    torch.testing.assert_close(drawn, torch.full((2, 4), 0.75, dtype=torch.float64), rtol=0, atol=0.03)
