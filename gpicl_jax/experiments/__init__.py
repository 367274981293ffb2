"""The tables and figures, one file or folder each: `gpicl experiment NAME`. What they share is in `engine`."""
