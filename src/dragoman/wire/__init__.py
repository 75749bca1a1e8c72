"""What travels, as typed Structs; no behaviour beyond decode and encode."""
