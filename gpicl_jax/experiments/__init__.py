"""The tables and figures, one file or folder each: `gpicl experiment NAME`. `engine` is what they share."""
