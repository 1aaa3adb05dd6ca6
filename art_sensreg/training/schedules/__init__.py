"""When the learning rate changes."""
