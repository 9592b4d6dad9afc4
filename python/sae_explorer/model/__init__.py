"""Everything that touches the live network."""
