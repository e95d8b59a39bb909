"""Log evidence and its methods, and how bounds tighten with the number of particles."""
