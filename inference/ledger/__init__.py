"""The ledger of the gap: its lines, and what is fitted for each data point to measure them."""
