"""The facts of this machine for `rally doctor`. Nothing is changed; what is made to try it out is removed at once."""
