"""The outside world, one thing a file. Only here may time, socket, subprocess, threading and torch be imported."""
