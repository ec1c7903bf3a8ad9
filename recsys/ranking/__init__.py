"""Pure functions on arrays: exact top-n and ranking metrics, shared by evaluation and scoring."""
