"""Who was treated, where, and how it was randomised."""
