"""Where numpy and ART meet tensors: from a classifier of ART and arrays to the training loop and back."""
