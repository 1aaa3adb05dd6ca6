"""ART's own defences, as shipped and repaired."""
