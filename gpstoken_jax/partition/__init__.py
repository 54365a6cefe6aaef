"""Where tokens start: an image cut into regions, smaller where there is more texture."""
