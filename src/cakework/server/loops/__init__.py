"""Work in the background: each loop looks at what is there and does what is missing."""
