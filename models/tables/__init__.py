"""Tables: columns of several kinds, and values that are missing."""
