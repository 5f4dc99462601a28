"""VMs: templates booted once, machines restored from them, and the users' programs in those."""
