"""What attacks are built from: projected ascent as a function, losses, balls of perturbations, checked inputs."""
