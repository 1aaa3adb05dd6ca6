"""Modules around a model through which every attack sees what surrounds it: BPDA, EOT, a whole ART classifier."""
