"""Is tau_hat real? Scores, RATE, sequential folds."""
