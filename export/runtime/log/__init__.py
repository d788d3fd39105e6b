"""Every verdict on record: the append-only log, the pictures kept beside it, and what operators correct."""
