"""What the documentation takes from the installed package: reference pages, tables, and excerpts."""
