"""From a torch student to the bundle that ships."""
