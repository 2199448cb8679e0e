"""The autoencoders, and self-paced refinement."""
