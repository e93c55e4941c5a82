"""The calibration of a model: the measured cost and residual of each eraser, and the choice that follows from them."""
