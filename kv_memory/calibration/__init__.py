"""What each eraser costs and leaves behind on one model, measured, and the choice that follows from it."""
