"""The messages between coordinators, miners and clients, and their transport."""
