"""Feature blocks, and procedures that make any single-scale estimator a multi-scale one."""
