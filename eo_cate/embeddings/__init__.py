"""Pixels to features, at several scales; encoders and their weights; controls."""
