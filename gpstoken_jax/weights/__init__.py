"""Weight files and tables: published names and ours, read both ways."""
