"""Model architectures with Hugging Face parameter names, their int8 layers, and reading and writing folders."""
