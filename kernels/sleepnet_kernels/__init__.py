"""Fast-weight kernels: one recurrence a folder, one oracle each, many implementations."""
