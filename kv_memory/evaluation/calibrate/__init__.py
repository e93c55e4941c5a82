"""The measuring half of calibration: probe layers, the influence that each eraser leaves, and how long it takes."""
