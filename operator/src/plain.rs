//! Errors of the API server in its own words.

use std::fmt;

/// Shows an error of the API server by its message, without the whole status object.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a>(pub &'a kube::Error);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kube::Error::Api(status) if !status.message.is_empty() => {
                write!(f, "{} ({} {})", status.message, status.code, status.reason)
            }
            other => other.fmt(f),
        }
    }
}
