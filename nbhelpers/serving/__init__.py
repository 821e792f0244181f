"""Models behind an address: served, asked and measured.

- `child`: a process that ends with the one that began it
- `server`: an OpenAI-compatible server of a model folder, started, waited for and always stopped
"""
