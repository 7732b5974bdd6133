"""Landscapes and trials whose true effects are known."""
