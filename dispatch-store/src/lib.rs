//! Placeholder front page, replaced by its rooms.
