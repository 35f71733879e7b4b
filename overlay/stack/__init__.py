"""Stacking: what a user asked for as layers, attached and mounted."""
