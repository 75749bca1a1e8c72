"""How upstream chat APIs depart from the common one, as data."""
