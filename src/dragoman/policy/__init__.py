"""Who may ask what, and where it goes; pure logic and the interfaces it needs."""
