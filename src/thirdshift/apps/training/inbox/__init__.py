"""From a dropped file to the queue: seen, claimed, checked."""
