"""Live inspection: parts judged one after another by what is installed, whatever happens meanwhile."""
