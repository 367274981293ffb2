"""The tables and figures, one file each: `gpicl experiment NAME`. What they share is in `engine`."""
