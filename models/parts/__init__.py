"""What pairs are made of: priors, likelihoods, posteriors."""
