"""The command line: a command a file, each a thin skin over one function of the library."""
