"""The dual-view model: paired tracks condition a Wan video transformer (design section 5)."""
