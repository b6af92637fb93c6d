"""What runs beside user code: a replica's side of the wire protocol. Runs in the user's environment."""
