"""Multi-task DiT: a diffusion transformer that follows instructions."""
