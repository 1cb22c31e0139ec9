"""Code systems: tables, canonical form, hierarchy, search and maps."""
