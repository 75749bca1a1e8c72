"""What the gateway costs, beside what nginx costs for passing the same bytes."""
