"""What a browser sees: the landing page and the documentation."""
