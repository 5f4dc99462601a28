"""The node: one host's VMs, builds and network. The only privileged part."""
