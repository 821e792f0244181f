"""Models behind an address: served, asked and measured.

- `bundle`: a folder that someone else can serve
- `child`: a process that ends with the one that began it
- `llama_cpp`: llama.cpp's server on a GGUF file
- `load_test`: many requests at once, and what each of them took
- `server`: an OpenAI-compatible server of a model folder, started, waited for and always stopped
"""
