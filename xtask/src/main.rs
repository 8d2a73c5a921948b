//! Every task a contributor runs.
fn main() {}
