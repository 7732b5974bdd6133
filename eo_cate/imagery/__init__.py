"""The pixels above each site before the trial."""
