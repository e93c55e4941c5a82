"""Generated conversations with known answers, for calibration, training and evaluation."""
