//! Containers sized at start-up.
