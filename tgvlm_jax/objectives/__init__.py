"""Training objectives: each returns named (sum, weight) pairs, and only the logger divides."""
