"""Studies: a YAML file in, every stage's output and a report out."""
