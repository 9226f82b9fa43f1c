"""Files: written whole or not at all, locked, sealed by a digest; archives and trajectories."""
