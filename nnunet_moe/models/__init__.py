"""Trained models: their folders, their networks, and prediction with them."""
