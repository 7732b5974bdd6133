"""Numeric helpers that every stage may import and that import no stage."""
