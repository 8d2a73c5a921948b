//! Detectors and transformations: what happens to values on the way back.

/// The masks of one flow, compiled: columns by name and detectors on values.
#[derive(Debug, Default)]
pub struct MaskSet {}
