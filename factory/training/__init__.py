"""Training, calibration of the decision, metrics of inspection."""
