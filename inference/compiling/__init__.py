"""Functions of a pair as compiled programs: the only room that knows torch's private names."""
