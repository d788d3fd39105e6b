"""Which bundle a station runs: installed beside the running one, tested, switched at once, taken back at once."""
