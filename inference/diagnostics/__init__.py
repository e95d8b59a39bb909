"""The noise of gradient estimators, and tests of a guide on the model's own data."""
