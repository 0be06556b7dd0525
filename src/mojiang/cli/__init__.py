"""The command line: it reads the catalog and knows no capability by name."""
