"""The use of the rules: commands, followers, dispatch, and the ports that they need."""
