"""A screen a stage, and the overlays. Each is a function of ``SessionState`` plus keys that send events."""
