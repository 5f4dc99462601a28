"""HTTP: routes, wire shapes in camelCase, problems."""
