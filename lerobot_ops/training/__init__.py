"""Training policies on datasets: the loop, its run directory, and resuming bit for bit."""
