//! The `interlock` command: the agent and the operator's tools.
fn main() {}
