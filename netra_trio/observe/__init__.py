"""What the process tells the outside of itself: logs, and what is kept out of them."""
