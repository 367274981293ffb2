"""Stored base datasets: images on the host, labels, splits. A dataset registers itself: see `registry`."""
