"""The only place that starts tasks, sleeps or opens connections."""
