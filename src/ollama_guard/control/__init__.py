"""The two unix sockets (status to read, control to act) and the public status file."""
