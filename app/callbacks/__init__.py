"""Lightning callbacks: checkpoints, exact resume, signals, divergence, monitoring."""
