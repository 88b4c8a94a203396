"""What people see of the runtime: it listens to events and reads the store."""
