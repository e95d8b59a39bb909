"""The noise of gradient estimators, and calibration of a guide."""
