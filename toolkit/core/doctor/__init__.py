"""What `rally doctor` finds: facts of a machine, and judges that make findings of them. Pure."""
