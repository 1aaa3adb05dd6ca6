"""The perturbed images of a step are made once, however often its loss is evaluated."""

import torch

from art_sensreg.adversaries.kept_images import KeptImages


def test_later_evaluations_take_the_images_of_the_first_in_their_order():
    images, made = KeptImages(), iter(torch.arange(10.0))
    with images.of_one_step():
        first = [images(lambda: next(made)) for _ in range(3)]
        for _ in range(2):
            images.again()
            assert [images(lambda: next(made)) for _ in range(3)] == first
    assert images(lambda: next(made)) == 3
    assert images(lambda: next(made)) == 4
