//! Transformations of text.
