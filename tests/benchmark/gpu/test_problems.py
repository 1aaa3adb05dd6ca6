"""The small problems of the GPU's stages, on the CPU."""

import numpy as np
import torch

from art_sensreg.benchmark.gpu.problems import CLASSES, MODELS, make_classifier, separable_images, train


def test_images_of_every_seed_have_the_same_classes():
    images, labels = separable_images(40, (1, 4, 4))
    other, _ = separable_images(40, (1, 4, 4), seed=1)
    assert images.dtype == np.float32
    assert 0 <= images.min() <= images.max() <= 1
    assert not np.array_equal(images, other)
    means = np.stack([images[labels == label].mean(axis=0) for label in range(CLASSES)])
    distances = ((other[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(axis=1) == labels).mean() > 0.9


def test_the_initial_weights_are_the_same_each_time_and_the_images_are_learned():
    first, second = make_classifier("cnn-small", "cpu"), make_classifier("cnn-small", "cpu")
    weights = second.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())
    data = separable_images(200, MODELS["cnn-small"].input_shape)
    history = train(first, data, batch_size=20, nb_epochs=3)
    assert history[-1]["accuracy"] > history[0]["accuracy"]
    assert history[-1]["accuracy"] > 0.8
