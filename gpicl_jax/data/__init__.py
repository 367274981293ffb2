"""Base datasets as they are stored: images on the host, labels, splits. A dataset registers itself: see `registry`."""
