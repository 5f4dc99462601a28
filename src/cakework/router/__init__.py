"""The router: maps hostnames to VMs and streams HTTP both ways."""
