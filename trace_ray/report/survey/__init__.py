"""What the report knows of all rows of a run: parts looked at one by one, each once, and what was seen added up."""
