"""Pure values: this folder uses no clock, no randomness, and no input or output."""
