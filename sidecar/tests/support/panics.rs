//! Panics of a sidecar, found in what it says on standard error: most end neither worker nor supervisor.

/// Lines of one panic that are shown: where it was, what it said, and what follows.
const PANIC_LINES: usize = 3;

/// The first one.
pub fn first(said: &str) -> Option<String> {
    let at = said.lines().position(|line| line.contains("panicked at "))?;
    Some(said.lines().skip(at).take(PANIC_LINES).collect::<Vec<_>>().join("\n"))
}
