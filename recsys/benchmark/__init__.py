"""Protocols of the literature on published data, through the feed, loop and ranking of a night."""
