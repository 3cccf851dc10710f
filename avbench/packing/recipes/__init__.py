"""Recipes: where clips come from, and what is kept of them."""
