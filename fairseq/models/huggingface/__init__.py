"""Language models of Hugging Face's transformers, as the rest of the code sees a model."""
