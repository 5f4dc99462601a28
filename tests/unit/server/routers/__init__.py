"""What routers are told and asked."""
