"""How each family writes tool calls as text."""
