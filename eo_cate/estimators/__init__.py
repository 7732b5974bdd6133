"""X to tau_hat."""
