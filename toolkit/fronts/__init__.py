"""What people see: the command line and its views. Each view is a fold over the event stream."""
