"""The control plane's records: accounts, keys, images, builds, VMs, idempotency, cursors."""
