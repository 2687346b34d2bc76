"""Lightning callbacks: checkpoints, exact resume, signals, monitoring."""
