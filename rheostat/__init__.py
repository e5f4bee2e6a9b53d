"""Rheostat finds the hyperparameters with which a deep network trains best, and says why."""
