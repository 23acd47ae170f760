"""The training loop and what it is made of: sampler, methods, LoRA, merge, guidance."""
