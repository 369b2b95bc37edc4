"""Lava Processes and their ProcessModels, and nothing else: Lava executes every file here."""
