"""The command `clip`. `main.run` is the entry point; each module holds one group of commands."""
