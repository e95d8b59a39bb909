"""Training a pair: the loop, the step, checkpoints, and EM for mixtures."""
