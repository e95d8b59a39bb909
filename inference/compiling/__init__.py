"""Functions of a pair as compiled programs: the only package that uses torch's private names."""
