"""The trainers: one class for each training method, each a few lines on top of a common base."""
