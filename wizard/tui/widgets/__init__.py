"""Widgets that draw lines and repaint only the lines that changed."""
