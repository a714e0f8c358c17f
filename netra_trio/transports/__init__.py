"""How frames come in and go out: one file per kind of line."""
