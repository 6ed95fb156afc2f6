//! `testimony-operator`.
fn main() {}
