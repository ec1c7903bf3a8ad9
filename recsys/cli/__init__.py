"""The command line: `recsys` and what the files in jobs/ share with it."""
