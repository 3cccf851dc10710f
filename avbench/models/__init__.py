"""Networks: encoders and the ways of joining them."""
