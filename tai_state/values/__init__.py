"""Pure values: no clock, no randomness, no input or output in here."""
