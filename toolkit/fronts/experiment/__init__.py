"""`rally experiment`: one scenario, in the simulator and on real processes of this machine, and how far they agree."""
