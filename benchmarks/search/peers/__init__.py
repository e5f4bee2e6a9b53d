"""Other people's tuners, each through its real package."""
