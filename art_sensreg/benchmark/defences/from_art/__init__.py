"""ART's own defences: as shipped, and `...-fixed` where a defect of ART 1.20.1 changes the result."""

from art_sensreg.benchmark.defences.from_art.adversarial import ADVERSARIAL
from art_sensreg.benchmark.defences.from_art.instahide import INSTAHIDE
from art_sensreg.benchmark.defences.from_art.interval_bounds import INTERVAL_BOUNDS
from art_sensreg.benchmark.defences.from_art.oaat import OAAT
from art_sensreg.benchmark.defences.from_art.postprocessing import POSTPROCESSING
from art_sensreg.benchmark.defences.from_art.preprocessing import PREPROCESSING
from art_sensreg.benchmark.defences.from_art.smoothing import SMOOTHING
from art_sensreg.benchmark.defences.from_art.soft_labels import SOFT_LABELS
from art_sensreg.benchmark.defences.from_art.zonotopes import ZONOTOPES

__all__ = ["FROM_ART", "LEFT_OUT"]

FROM_ART = (
    *ADVERSARIAL,
    *OAAT,
    *INSTAHIDE,
    *SOFT_LABELS,
    *INTERVAL_BOUNDS,
    *ZONOTOPES,
    *SMOOTHING,
    *PREPROCESSING,
    *POSTPROCESSING,
)

# What else ART ships for PyTorch, by the names of its classes, and why it is left out.
LEFT_OUT = {
    "Cutout, Mixup, CutMix": "augmentation of training data, against poisoned images; art-dp-instahide trains with it",
    "ThermometerEncoding": "needs a network of its own, with an input channel for each level",
    "PixelDefend": "needs a generative model of the images (PixelCNN), which ART does not ship",
    "Resample, Mp3Compression, VideoCompression": "for sound and video",
    "DeRandomizedSmoothing, ObjectSeeker": "certify against patches, which no attack here puts into images",
    "BinaryInputDetector, BinaryActivationDetector, SubsetScanningDetector, BeyondDetector": "detectors: they reject "
    "images and classify none, so that robust accuracy says nothing about them",
    "NeuralCleanse, STRIP, ActivationDefence, ProvenanceDefense, RONIDefense, SpectralSignatureDefense": "against "
    "backdoors and poisoned training data",
}
