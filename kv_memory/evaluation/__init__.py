"""Measuring erasers against never-saw: comparisons, metrics, tables."""
