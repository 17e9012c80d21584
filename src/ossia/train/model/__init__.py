"""The trainable model: its weights, how each kind is multiplied, and the gradients of its costly parts."""
