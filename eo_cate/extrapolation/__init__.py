"""tau_hat beyond the trial: the map."""
