"""`rally top` in a browser: who may come in, what they are shown, and the processes behind it."""
