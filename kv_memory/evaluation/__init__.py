"""Measurements of erasers against never-saw: comparisons, metrics, calibration, leakage."""
