"""Networks of VMs and builds: a namespace each, and the one way into it."""
