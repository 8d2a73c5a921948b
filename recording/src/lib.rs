//! The recording format: events, chain, signatures, verification, export.
