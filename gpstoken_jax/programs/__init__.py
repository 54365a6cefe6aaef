"""The programs behind ``gpstoken NAME``."""
