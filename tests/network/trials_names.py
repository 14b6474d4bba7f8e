"""haproxy in front of one agent server or two."""
