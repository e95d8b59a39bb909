"""What training maximizes: a file for each family of bounds, their gradients, closed-form KL divergences."""
