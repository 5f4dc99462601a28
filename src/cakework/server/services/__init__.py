"""What the control plane does, one module for each noun; HTTP is above, the store below."""
