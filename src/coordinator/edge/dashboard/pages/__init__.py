"""The dashboard's pages: a module for each, with what it shows and what its forms do."""
