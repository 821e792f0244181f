"""Language models: found, loaded, rendered for, adapted, made smaller, and their memory foreseen.

- `adapters`: what each method trains and adds; bottleneck adapters
- `audits`: checks of tokenised rows for mistakes that train without complaint
- `base_models`: base models made to speak a chat template
- `budget`: KV cache, the models of RLHF, disk
- `embedded`: the models that need no hub
- `encoding`: messages as token ids and labels
- `equivalence`: whether a merged model is its adapter on its base
- `fast_paths`: faster ways to the same numbers
- `gguf_files`: a model written as one GGUF file, for llama.cpp
- `loading`: models found (Hub, folder, embedded) and loaded
- `memory`: peak memory of a training, predicted from a model's shape
- `memory_limits`: whether a predicted peak fits, and what would lower it
- `published_memory`: peaks that others measured, beside the prediction
- `quantization`: a model with its matrices in fewer bits
- `saving`: models and adapters written, and compared by their logits
- `sequence_lengths`: tokens a row, and what a `max_length` costs
- `shape`: the numbers of a model that memory and time follow from
- `templates`: chat templates rendered, checked, and guarded against forged turns
- `token_view`: a tokenised row, drawn
"""
