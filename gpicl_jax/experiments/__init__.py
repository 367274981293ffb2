"""One file per table or figure: `gpicl experiment NAME`."""
