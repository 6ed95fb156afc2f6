//! `testimony-sidecar`: `init` installs the redirect rules, `run` is the proxy.
fn main() {}
