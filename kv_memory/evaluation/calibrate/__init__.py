"""Calibration, the measuring half: probe layers, what each eraser leaves behind, and how long it takes."""
