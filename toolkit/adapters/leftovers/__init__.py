"""What keeps the processes that workers have started from outliving them and their agent."""
