"""The trainers: one class a training method, each a few lines over a common base."""
