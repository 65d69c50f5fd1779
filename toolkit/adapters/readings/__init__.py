"""What workers and GPUs use, sampled beside the agent: `sampler` is the sink and the thread, the rest looks."""
