"""Labels by people: which pairs are worth one, the page on which they are given, several raters merged."""
