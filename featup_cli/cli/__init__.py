"""The command line: parse, build the settings, make one library call, print."""
