"""Getting a machine, a container or a cluster ready. First part: what this machine can do."""
