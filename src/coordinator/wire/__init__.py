"""What coordinators, miners and clients say to each other, and how."""
