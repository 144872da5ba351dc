"""The command line: argv to recipe to stages. The only place that prints."""
