//! Installing and removing on made-up systems.
