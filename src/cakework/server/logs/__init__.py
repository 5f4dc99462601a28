"""Log lines of VMs and builds, in a SQLite file of their own."""
