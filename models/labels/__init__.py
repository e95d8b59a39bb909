"""Labels and covariates: pairs of data given them, and pairs of both, some of whose labels are missing."""
