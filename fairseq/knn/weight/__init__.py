"""An interpolation weight λ for each token: fitted, kept, and applied."""
