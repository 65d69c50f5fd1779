"""What the workers print: to files, to the console, or both."""
