"""Trained models: their folders, their networks, and predictions with them."""
