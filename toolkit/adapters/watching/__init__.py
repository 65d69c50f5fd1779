"""Whether workers still move: `watcher` is the thread beside the agent, the rest is what it looks at and how."""
