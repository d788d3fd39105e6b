"""The commands of ``station``: each module adds its own to the parser and runs them."""
